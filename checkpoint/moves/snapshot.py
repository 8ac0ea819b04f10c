"""What a dump has left of a stopped workload: its images, and duplicates of its sockets, until they are sealed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from checkpoint.core import flows, manifest, readdress
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import Manifest, Proof
from checkpoint.core.sockopts import SocketOptions
from checkpoint.engine import Folders
from checkpoint.images import store
from checkpoint.images.folder import Images, Stream
from checkpoint.images.growing import Growing, Tags
from checkpoint.moves.surroundings import STOPPED_BEFORE, Surroundings
from checkpoint.processes.tree import Tree
from checkpoint.sockets import adopt, sockopts, unkept
from checkpoint.sockets.adopt import Adoption, Given
from checkpoint.sockets.duplicates import OpenSockets


class Snapshot:
    """One migration's. In this order: `look` and `tagging` beside the dump, `keep` after it, `adopt`, `seal`; `close`
    at any time."""

    def __init__(self, around: Surroundings, folders: Folders, key: bytes) -> None:
        """`key` is the 32 bytes that the images are proved by."""
        self.sorted = flows.Sorted([], [], [], [])
        self.dumped: dict[str, int] = {}
        """The size of each file right after the dump."""
        self._around = around
        self._folder = folders.images
        self._key = key
        self._key_used = False
        self._images = Images(self._folder, around.messages)
        self._sockets: OpenSockets | None = None
        self._given_up: dict[int, str] = {}
        """The connections that cannot be kept, by inode, and why."""
        self._streams: dict[int, Stream] = {}
        self._tags: Tags = {}
        """Of the pages that CRIU had written before it ended."""
        self._pages: asyncio.Task[dict[str, Proof]] | None = None
        self._expects: dict[int, int] = {}
        """The next byte that each restored connection expects, as the proxy has seen at the live one."""
        self._restored_at: dict[int, str] = {}
        """Each adopted connection's own address at the destination, by the socket's inode."""

    def give_up(self, tree: Tree) -> None:
        """Find the connections that cannot be kept: the rest moves without them. Blocks."""
        self._given_up = unkept.given_up(self._around.kernel, tree)

    def look(self, tree: Tree) -> list[SocketOptions]:
        """Duplicate the sockets of the tree, and read what CRIU does not save of them. Blocks."""
        self.close_sockets()
        self._sockets = OpenSockets(self._around.kernel, tree)
        return sockopts.read(self._sockets.by_ino.values())

    @contextmanager
    def tagging(self, known: Tags) -> Iterator[None]:
        """While CRIU writes the folder, from the start: what can be is tagged already. `known`: what was before."""
        growing = Growing(self._folder, self._key, known)
        try:
            yield
        finally:
            self._tags = growing.end()

    def keep(self, options: list[SocketOptions], stopped_before: list[int]) -> None:
        """CRIU has written its images: put ours among them, and prove the rest of the pages, which nobody edits."""
        (self._folder / sockopts.FILE).write_bytes(msgspec.json.encode(options))
        (self._folder / STOPPED_BEFORE).write_bytes(msgspec.json.encode(stopped_before))
        self.dumped = store.listing(self._folder)
        pages = list(filter(manifest.is_pages, self.dumped))
        proving = self._around.store.prove(self._folder, self._key, self.dumped, pages, self._tags)
        self._pages = self._around.spawn(proving, "tag the pages")

    def sort(self) -> bool:
        """Tell the sockets apart; gives whether there are any for the proxy. Raises AgentError."""
        assert self._sockets is not None
        self._images = Images(self._folder, self._around.messages)
        self.sorted = flows.sort(self._images.sockets(), self._sockets.by_ino, self._sockets.datagrams)
        return bool(self.sorted.flows or self.sorted.listeners or self.sorted.datagrams)

    async def adopt(self, adoption: Adoption) -> list[msgspec.Raw]:
        """Give the sockets to the proxy, and gives the legs; see `Adoption.adopt`."""
        held = self.sorted.flows
        legs = await adoption.adopt(self._given(), len(held))
        ends = list(zip(held, adopt.ends_of(legs[: len(held)]), strict=True))
        self._restored_at = {one.socket.ino: leg.app[0] for one, leg in ends if leg.app}
        self._expects = {one.socket.ino: leg.snd_seq for one, leg in ends if leg.snd_seq is not None}
        return legs

    def _given(self) -> Iterator[Given]:
        """Each socket for the proxy; its image is read when its turn comes."""
        assert self._sockets is not None
        opened, datagrams = self._sockets.by_ino, self._sockets.datagrams
        for held in self.sorted.flows:
            ino = held.socket.ino
            self._streams[ino] = self._images.stream(ino)
            say = adopt.describe(held, self._streams[ino])
            say.given_up = self._given_up.get(ino, "")
            yield Given(say, opened[ino].sock)
        for held in self.sorted.listeners:
            yield Given(adopt.describe(held, None), opened[held.socket.ino].sock)
        for held in self.sorted.datagrams:
            yield Given(adopt.describe(held, None, kind="datagrams"), datagrams[held.socket.ino].sock)

    async def seal(self, addresses: dict[str, str]) -> tuple[Manifest, str]:
        """Edit the images for the destination, by `addresses`, and sign for every file; gives the digest too.

        Raises AgentError, WRONG_STATE the second time: a key is for one seal.
        """
        if self._key_used:
            raise AgentError(Code.WRONG_STATE, "sealing failed before, and a key is for one seal: release the workload")
        self._key_used = True
        self._edit_streams()
        self._images.edit_sockets(addresses, self.sorted.inside, self._restored_at)
        assert self._pages is not None
        known = {stream.name: stream.raw for stream in self._streams.values()}
        return await self._around.store.seal(self._folder, self._key, self.dumped, await self._pages, known)

    def _edit_streams(self) -> None:
        for held in self.sorted.flows:
            stream = self._streams[held.socket.ino]
            numbers = readdress.without_unsent(readdress.without_fins(held.socket.state, stream.numbers))
            expects = self._expects.get(held.socket.ino, numbers.inq_seq)
            stream.write(readdress.reading_from(numbers, expects))

    def reuse_address(self) -> dict[int, bool]:
        """What the workload had set of SO_REUSEADDR on each adopted TCP socket, by inode."""
        everything = [*self.sorted.flows, *self.sorted.listeners]
        return {one.socket.ino: one.socket.reuse_address for one in everything}

    def backlogs(self) -> dict[int, int]:
        """The backlog of each listener, by inode."""
        return {one.socket.ino: one.socket.backlog for one in self.sorted.listeners}

    def close(self) -> None:
        self.close_sockets()
        if self._pages is not None:
            self._pages.cancel()

    def close_sockets(self) -> None:
        """Once the proxy has its own, or will not get any."""
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
