"""Both ends of a direct transfer over the loopback: the real ones, between two folders."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from checkpoint.api import SendImages, TransferReport
from checkpoint.images import store
from checkpoint.kernel import Kernel
from checkpoint.transfer.receiving import Receiving
from checkpoint.transfer.sending import Sending
from tests.harness.cutter import Then, cutter

KEY = bytes(range(32))
HOST = "127.0.0.1"


class Ferry:
    """`here` is the source's folder, `there` the destination's."""

    def __init__(self, here: Path, there: Path, receiving: Receiving, sending: Sending) -> None:
        self.here, self.there, self.receiving, self.sending = here, there, receiving, sending

    async def finish(self) -> TransferReport:
        return await self.sending.finish(store.listing(self.here))

    def assert_same(self) -> None:
        assert store.listing(self.there) == store.listing(self.here)
        for name in store.listing(self.here):
            assert (self.there / name).read_bytes() == (self.here / name).read_bytes(), name


@asynccontextmanager
async def ferry(
    folder: Path, *, streams: int = 1, bytes_per_second: float = 0.0, key: bytes = KEY, there: Path | None = None,
    port: int = 0, cut_after: int = 1 << 60,
) -> AsyncIterator[Ferry]:  # fmt: skip
    """A transfer between two folders below `folder`; `key` is the source's, `port` where it goes if not straight.

    After `cut_after` bytes of the source's its connections are cut; new ones are well.
    """
    here, there = folder / "here", there or folder / "there"
    for one in (here, there):
        one.mkdir(exist_ok=True)
    receiving = Receiving(KEY, HOST, there)
    try:
        async with cutter(HOST, receiving.port, after_bytes=cut_after, then=Then.WELL) as way:
            through = way.port if cut_after < 1 << 60 else receiving.port
            sending = await Sending.open(
                Kernel(), key, here, SendImages(HOST, port or through, streams, bytes_per_second)
            )
            try:
                yield Ferry(here, there, receiving, sending)
            finally:
                await sending.close()
    finally:
        await receiving.close()


def fill(folder: Path, sizes: dict[str, int], seed: int = 1) -> None:
    """Files of random bytes; every third of them can be compressed."""
    chance = random.Random(seed)
    for at, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(bytes(size) if at % 3 == 2 else chance.randbytes(size))
