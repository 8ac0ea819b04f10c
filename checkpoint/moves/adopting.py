"""The workload's sockets on their way to the proxy.

First those connections whose ends at the destination stand already, and that CRIU is not shown (`moves.foreseen`).
Then each of the others as soon as CRIU has written its image, while it is at the next one. What the image says of a
connection's addresses and its state is in files.img, which CRIU writes last. So a connection goes early only if its
state was the same before CRIU looked at it and is afterwards; in the end files.img is held against all that was said.
What is left then, listeners among it, goes last.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from socket import SocketType

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint.api import Adopted, Changed, Cut
from checkpoint.core import flows, manifest, readdress
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.flows import Held
from checkpoint.core.manifest import Proof
from checkpoint.core.sockopts import SocketOptions
from checkpoint.images import gmac
from checkpoint.images.folder import Images, Stream
from checkpoint.images.watch import FolderWatch
from checkpoint.kernel import IN_CLOSE_WRITE
from checkpoint.moves.dumping import Show
from checkpoint.moves.foreseen import Foreseen
from checkpoint.moves.handover import Handover
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes.tree import Tree
from checkpoint.sockets import adopt, adoption, duplicates, inventory, legs, live, multipath, sockopts, unkept
from checkpoint.sockets.adopt import Given, PairedSocket, Taken
from checkpoint.sockets.duplicates import OpenSockets
from checkpoint.sockets.inventory import Inventory
from checkpoint.sockets.left import LeftListeners
from checkpoint.sockets.legs import LegEnds
from checkpoint.sockets.multipath import LastConnections


class Adopting:
    """One migration's. `watch` before the dump and `look` beside it, `again` before a further dump, beside which it is
    looked anew, `finish` after it; `release` or `close` at any time."""

    def __init__(
        self, around: Surroundings, migration: str, folder: Path, key: bytes, lost: Callable[[], None],
        foreseen: Foreseen,
    ) -> None:  # fmt: skip
        """`folder` is where CRIU writes its images, `key` the 32 bytes that they are proved by. `lost` is called when
        the proxy dies while it has the sockets.
        """
        self.sorted = flows.Sorted([], [], [], [])
        self.proofs: dict[str, Proof] = {}
        """Of the connections' images: they are edited for the destination as soon as the proxy has the connection."""
        self._around, self._folder = around, folder
        self._key = key  # none after a restart of the agent: what was begun before goes back
        self._images = Images(folder, around.messages)
        self._inventory = Inventory()
        self._sockets: OpenSockets | None = None
        self._handover = Handover(around.adopt_path, migration, lost, self._keep)
        self._watch: FolderWatch | None = None
        self._whole: deque[int] = deque()
        """The connections whose images CRIU has written, by inode, but for those that were given."""
        self._paired: deque[int] = deque()
        """Those that CRIU is not shown, by inode, but for those that were given."""
        self._failed: AgentError | None = None
        """Why nothing more is given before the dump is over."""
        self._given_up: dict[int, str] = {}
        """The connections that cannot be kept, by inode, and why."""
        self._live: dict[int, Held] = {}
        """The connections as they were before CRIU looked, by inode."""
        self._given: dict[int, Held] = {}
        """Those that the proxy has or is getting, by inode."""
        self._numbers: dict[int, int] = {}
        """The number of each by inode: it stays the same when it is given again."""
        self._under_way: dict[int, tuple[Held, Stream]] = {}
        """Those whose legs the proxy has not said yet, by number."""
        self._restored_at: dict[int, str] = {}
        """Each adopted connection's own address at the destination, by the socket's inode."""
        self._count = 0
        """How many flows there are."""
        self._left = LeftListeners()
        self._last = LastConnections(around.kernel)
        self._foreseen = foreseen
        self._comparing: asyncio.Task[list[Changed]] | None = None

    def give_up(self, tree: Tree) -> None:
        """Find the connections that cannot be kept: the rest moves without them. Blocks."""
        self._given_up = unkept.given_up(self._around.kernel, tree)

    def watch(self) -> None:
        """CRIU is about to write its images. Raises AgentError KERNEL."""
        self._watch = FolderWatch(self._around.kernel, self._folder, IN_CLOSE_WRITE, self._written)
        self._handover.listen(self._go_on)

    async def look(self, tree: Tree, show: Show) -> list[SocketOptions]:
        """Find the sockets of the tree, and begin to give them; gives the options that CRIU does not save, which
        waits for `show`."""
        try:
            await asyncio.to_thread(self._look, tree)
        finally:
            if not await show(self._foreseen.shown):
                self._foreseen.forget()
        options = await asyncio.to_thread(self._tell_apart)
        self._paired.extend(self._foreseen.chosen)
        self._go_on()
        assert self._sockets is not None
        await asyncio.to_thread(self._foreseen.describe, self._sockets)
        return options

    async def again(self) -> None:
        """CRIU is going to dump once more: everything is given again after that, as the new images say."""
        self._stop_watching()
        self._failed = None
        await self._handover.begin_again()
        self._foreseen.stand(())  # what is unread of them may have grown: they go by their images
        self._foreseen.forget()
        self._put_back()
        for queue in (self._whole, self._paired):
            queue.clear()
        for table in (self._given, self._under_way, self.proofs, self._restored_at):
            table.clear()

    async def finish(self) -> Adopted:
        """CRIU has dumped: give what is left, and wait until the proxy has everything. Raises AgentError.

        While the proxy is at one message, the next is made, and the list of all sockets read.
        """
        if self._watch is not None:
            self._watch.look()
        self._stop_watching()
        if self._failed is not None:
            raise self._failed
        await self._give_paired()
        await self._give(self._dumped_so_far(), len(self._live))
        self._sort()
        await self._give(self._rest(), self._count)
        await self._handover.settle()
        self._left.keep(self._duplicate(held.socket.ino) for held in self.sorted.listeners)
        self._last.keep(self._duplicate(ino) for ino in self._foreseen.replaced if ino in self._given_up)
        assert self._sockets is not None
        self._sockets.close(but=self._foreseen.chosen)
        return Adopted(self._count, len(self.sorted.listeners), *self.take_legs(), cut=self._cut())

    def begin_comparing(self) -> None:
        """Nothing else is to be done here in the freeze."""
        assert self._sockets is not None
        comparing = asyncio.to_thread(self._foreseen.compare, self._sockets)
        self._comparing = self._around.spawn(comparing, "compare the connections")

    async def compare(self) -> list[Changed]:
        """What the workload has changed of the connections of pairs since those were made. Raises AgentError."""
        try:
            return await self._comparing if self._comparing is not None else []
        finally:
            self._close_sockets()

    def take_legs(self) -> tuple[msgspec.Raw, msgspec.Raw]:
        """See Handover."""
        return self._handover.take_legs()

    def edit_addresses(self, addresses: dict[str, str]) -> None:
        """Of all sockets in the images, for the destination. Raises AgentError."""
        self._images.edit_sockets(addresses, self.sorted.inside, self._restored_at)

    def hurry(self) -> None:
        """See Handover."""
        self._handover.hurry()

    async def release(self) -> None:
        """Have the proxy give everything back."""
        self._stop_watching()
        await self._handover.release()
        self.close()

    def give_away(self) -> None:
        """The workload is the destination's: the listeners that are left of it are ours, as the proxy is."""
        self._left.own()
        self._last.cut()

    def close(self) -> None:
        """Once the proxy's part is over, or nobody is to adopt anything."""
        self._stop_watching()
        self._left.close()
        self._last.close()
        self._handover.close()
        self._foreseen.close()
        self._close_sockets()

    def reuse_address(self) -> dict[int, bool]:
        """What the workload had set of SO_REUSEADDR on each adopted TCP socket, by inode."""
        everything = [*self._live.values(), *self.sorted.flows, *self.sorted.listeners]
        return {one.socket.ino: one.socket.reuse_address for one in everything}

    def backlogs(self) -> dict[int, int]:
        """The backlog of each listener, by inode."""
        return {one.socket.ino: one.socket.backlog for one in self.sorted.listeners}

    def _look(self, tree: Tree) -> None:
        """The kernel says what there is; or it is duplicated, and looked at."""
        self._close_sockets()
        kernel, families = self._around.kernel, self._foreseen.families
        said = inventory.asked(self._around.open_files, tree)
        if said is not None:
            self._inventory, self._sockets, unread = said, OpenSockets(kernel, tree, said), said.unread()
        else:
            self._inventory, self._sockets = duplicates.looked_for(kernel, tree, families)
            standing = (ino for ino in families if ino in self._inventory.connections)
            unread = live.unread({ino: self._sockets.of(ino).sock for ino in standing})
        self._foreseen.choose(self._inventory, unread, self._replaced(), but=self._given_up)

    def _replaced(self) -> list[int]:
        """The inodes of those that something else stands for in the copy; those that are connections only where they
        may be given up."""
        assert self._sockets is not None
        found = self._inventory.multipath
        return [ino for ino in found if ino in self._given_up or not multipath.is_connected(self._sockets.of(ino).sock)]

    def _tell_apart(self) -> list[SocketOptions]:
        """Those that CRIU sees."""
        assert self._sockets is not None
        chosen, connections = self._foreseen.chosen, self._inventory.connections
        others = {ino: self._sockets.of(ino) for ino in connections if ino not in chosen}
        replaced = {ino: self._sockets.of(ino) for ino in self._foreseen.replaced}
        datagrams = map(self._sockets.of, self._inventory.datagrams)
        options = sockopts.read([*others.values(), *replaced.values(), *datagrams])  # before anybody else has them
        listeners = {ino: one for ino, one in replaced.items() if multipath.listens(one.sock)}
        sockets = [live.describe(ino, one.sock) for ino, one in (others | listeners).items()]
        found = flows.sort(
            [one for one in sockets if one.listens or one.state in flows.MOVABLE], self._inventory.streams
        )
        self._live = {held.socket.ino: held for held in found.flows} | {ino: self._foreseen.held(ino) for ino in chosen}
        return options

    def _cut(self) -> list[Cut]:
        """Those that end with the commit."""
        ports = {held.socket.source_port for held in self.sorted.listeners}
        found: list[Cut] = []
        for ino in self._foreseen.replaced:
            if why := self._given_up.get(ino):
                sock = self._duplicate(ino)
                direction: flows.Direction = "inbound" if sock.getsockname()[1] in ports else "outbound"
                found.append(Cut(unkept.peer(sock), direction, why))
        return found

    def _written(self, masks: Mapping[str, int]) -> None:
        """CRIU has closed these images."""
        self._whole.extend(inode for name in masks if (inode := manifest.inode_of(name)) is not None)
        self._go_on()

    def _go_on(self) -> None:
        """While CRIU dumps: give as many whole messages as there are, and as the proxy has room for."""
        # Of a dump that is made again nobody watches; and they are not looked at yet, or there are none.
        if self._watch is None or not self._live or self._failed is not None:
            return
        try:
            self._handover.hear()
            while self._paired and self._handover.has_room:
                self._say_paired()
            while len(self._whole) >= adoption.CHUNK and self._handover.has_room:
                if some := list(islice(self._dumped_so_far(), adoption.CHUNK)):
                    self._handover.give(some, len(self._live))
        except AgentError as error:
            self._failed = error
            self._stop_watching()

    def _dumped_so_far(self) -> Iterator[Given]:
        """The connections whose images are whole, but for those that changed while CRIU looked: they come later."""
        while self._whole:
            ino = self._whole.popleft()
            if ino not in self._given and self._is_as_it_was(ino):  # what we edit is closed once more
                yield self._describe(self._live[ino])

    def _is_as_it_was(self, ino: int) -> bool:
        return ino in self._live and live.state_of(self._duplicate(ino)) == self._live[ino].socket.state

    def _sort(self) -> None:
        """Tell the sockets apart as the images have them, and hold that against what was said."""
        self._images = Images(self._folder, self._around.messages)
        self._images.add(self._foreseen.opened())
        self.sorted = flows.sort(
            self._images.sockets(), self._inventory.streams, self._inventory.datagrams
        )  # fmt: skip
        dumped = {held.socket.ino: held for held in self.sorted.flows}
        for ino, held in self._given.items():
            if ino not in dumped or not flows.agree(held, dumped[ino]):
                words = f"CRIU dumped the connection {held.socket} as another than the proxy was given"
                raise AgentError(Code.INTERNAL, words)
        self._count = len(self.sorted.flows) + len(self._foreseen.chosen)

    def _rest(self) -> Iterator[Given]:
        """What was not given yet; an image is read when its turn comes."""
        for held in self.sorted.flows:
            if held.socket.ino not in self._given:
                yield self._describe(held)
        for held in self.sorted.listeners:
            yield Given(adopt.describe(held, None), self._duplicate(held.socket.ino))
        for held in self.sorted.datagrams:
            yield Given(adopt.describe(held, None, kind="datagrams"), self._duplicate(held.socket.ino))

    def _describe(self, held: Held) -> Given:
        ino = held.socket.ino
        stream = self._images.stream(ino)
        say = adopt.describe(held, stream)
        say.flow = self._numbers.setdefault(ino, self._foreseen.number_of(ino) or say.flow)
        say.given_up = self._given_up.get(ino, "")
        self._given[ino] = held
        self._under_way[say.flow] = held, stream
        return Given(say, self._duplicate(ino))

    async def _give(self, everything: Iterator[Given], flow_count: int) -> None:
        """Message by message, as the proxy has room."""
        while some := list(islice(everything, adoption.CHUNK)):
            await self._handover.room()
            self._handover.give(some, flow_count)

    async def _give_paired(self) -> None:
        while self._paired:
            await self._handover.room()
            self._say_paired()

    def _say_paired(self) -> None:
        some: list[PairedSocket] = []
        room = adoption.UNREAD_OF_PAIRS_BYTES
        while self._paired and len(some) < adoption.CHUNK_OF_PAIRS:
            one = self._foreseen.given(self._paired[0], self._duplicate(self._paired[0]))
            room -= one.unread
            if room < 0:
                break
            some.append(one)
            self._paired.popleft()
        self._handover.give_paired(some, len(self._live))

    def _keep(self, taken: Taken) -> None:
        """The proxy has these: what it says of them goes into their images."""
        numbers = [one.say.flow for one in taken.given if one.say.kind == "flow"]
        for number, ends in zip(numbers, legs.ends_of(taken.legs[: len(numbers)]), strict=True):
            self._edit(*self._under_way.pop(number), ends)

    def _edit(self, held: Held, stream: Stream, ends: LegEnds) -> None:
        numbers = readdress.without_unsent(readdress.without_fins(held.socket.state, stream.numbers))
        expects = numbers.inq_seq if ends.snd_seq is None else ends.snd_seq
        stream.write(readdress.reading_from(numbers, expects))
        place = manifest.place_of_stream(held.socket.ino)
        self.proofs[stream.name] = gmac.proof(self._cipher, place, stream.raw)
        if ends.app:
            self._restored_at[held.socket.ino] = ends.app[0]

    @cached_property
    def _cipher(self) -> AESGCM:
        return AESGCM(self._key)

    def _put_back(self) -> None:
        """CRIU is to see SO_REUSEADDR as the workload had it: leaving repair mode sets it (`proxy.sys.repair`)."""
        for ino, held in self._given.items():
            self._duplicate(ino).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, held.socket.reuse_address)

    def _stop_watching(self) -> None:
        """Of the dump nothing more is awaited."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._handover.deafen()

    def _duplicate(self, ino: int) -> SocketType:
        """Raises AgentError."""
        assert self._sockets is not None
        try:
            return self._sockets.of(ino).sock
        except OSError as error:
            raise AgentError(Code.KERNEL, f"a connection cannot be duplicated: {error.strerror}") from error

    def _close_sockets(self) -> None:
        """Once the proxy has its own, or will not get any."""
        if self._comparing is not None and not self._comparing.done():  # it looks at them, in its thread
            self._comparing.add_done_callback(lambda _: self._close_sockets())
        elif self._sockets is not None:
            self._sockets.close()
            self._sockets = None
