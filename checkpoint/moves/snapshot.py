"""What a dump has left of a stopped workload: its images, until they are sealed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from checkpoint.core import manifest
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import Manifest, Proof
from checkpoint.engine import Folders
from checkpoint.images import store
from checkpoint.images.growing import Growing, Tags
from checkpoint.moves.adopting import Adopting
from checkpoint.moves.surroundings import Surroundings


class Snapshot:
    """One migration's. In this order: `tagging` beside the dump, `keep` after it, `seal`; `close` at any time."""

    def __init__(self, around: Surroundings, folders: Folders, key: bytes) -> None:
        """`key` is the 32 bytes that the images are proved by."""
        self.dumped: dict[str, int] = {}
        """The size of each file right after the dump."""
        self._around = around
        self._folder = folders.images
        self._key = key
        self._key_used = False
        self._tags: Tags = {}
        """Of the pages that CRIU had written before it ended."""
        self._pages: asyncio.Task[dict[str, Proof]] | None = None

    @contextmanager
    def tagging(self, known: Tags) -> Iterator[None]:
        """While CRIU writes the folder, from the start: what can be is tagged already. `known`: what was before."""
        growing = Growing(self._folder, self._key, known)
        try:
            yield
        finally:
            self._tags = growing.end()

    def keep(self, ours: Mapping[str, object]) -> None:
        """CRIU has written its images: put ours among them, each what JSON can say, by the names of their files; and
        prove the rest of the pages, which nobody edits."""
        for name, content in ours.items():
            (self._folder / name).write_bytes(msgspec.json.encode(content))
        self.dumped = store.listing(self._folder)
        pages = list(filter(manifest.is_pages, self.dumped))
        proving = self._around.store.prove(self._folder, self._key, self.dumped, pages, self._tags)
        self._pages = self._around.spawn(proving, "tag the pages")

    async def seal(self, addresses: dict[str, str], handed: Adopting) -> tuple[Manifest, str]:
        """Edit the images for the destination, by `addresses` and by what the proxy has said of the sockets it was
        `handed`, and sign for every file; gives the digest too.

        Raises AgentError, WRONG_STATE the second time: a key is for one seal.
        """
        if self._key_used:
            raise AgentError(Code.WRONG_STATE, "sealing failed before, and a key is for one seal: release the workload")
        self._key_used = True
        handed.edit_addresses(addresses)
        assert self._pages is not None
        proved = await self._pages | handed.proofs
        return await self._around.store.seal(self._folder, self._key, self.dumped, proved)

    def close(self) -> None:
        if self._pages is not None:
            self._pages.cancel()
