from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.transfer.shipment import Shipment
from checkpoint.transfer.watch import Watch

MEGABYTE = 1 << 20


class Watched:
    """A folder, and the pieces that may be sent of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shipment = folder, Shipment()
        self.watch = Watch(Kernel(), folder, self.shipment)
        self.pieces: list[tuple[str, int, int, bool]] = []

    async def until(self, pieces: int) -> None:
        async with asyncio.timeout(15):
            while len(self.pieces) < pieces:
                while parcel := self.shipment.next(patiently=False):
                    self.pieces += [(one.name, one.offset, one.size, one.last) for one in parcel.pieces]
                await asyncio.sleep(0.002)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.watch.close()
    made.watch.close()  # said twice


async def test_whole_megabytes_go_while_a_file_grows_and_the_rest_when_it_is_closed(watched: Watched) -> None:
    with (watched.folder / "pages-1.img").open("wb", buffering=0) as file:
        file.write(bytes(MEGABYTE + 5))
        await watched.until(1)
        assert watched.pieces == [("pages-1.img", 0, MEGABYTE, False)]
        file.write(b"more")
    await watched.until(2)
    assert watched.pieces[1:] == [("pages-1.img", MEGABYTE, 9, True)]


async def test_what_is_gone_again_is_passed_over(watched: Watched) -> None:
    (watched.folder / "short-lived").write_bytes(b"x")
    (watched.folder / "short-lived").unlink()
    (watched.folder / "ids-1.img").write_bytes(b"stays")
    await watched.until(1)
    assert watched.pieces == [("ids-1.img", 0, 5, True)]


async def test_a_folder_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="cannot be watched") as raised:
        Watch(Kernel(), tmp_path / "none", Shipment())
    assert raised.value.code is Code.KERNEL
