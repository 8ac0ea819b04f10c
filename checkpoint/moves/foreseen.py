"""The connections of a workload whose ends at the destination are made before the freeze: each is a pair there
(`checkpoint.core.pairs`), and CRIU is shown none of them.

To CRIU a connection takes 75 us at the source and 60 us at the destination, and as long again to us: its image is
edited, sent, proved. What it says is nearly all known while the workload runs. So it is looked at then, and inside the
freeze only whether it is still there; what may have changed of its options is looked for while the copy is restored.
A connection that is not plain goes by its image, as do those that come too late.

Nor is CRIU shown what it cannot save and something else can stand for (`checkpoint.sockets.multipath`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Collection, Container, Iterable, Iterator
from contextlib import closing, suppress
from itertools import count, islice
from pathlib import Path
from socket import SocketType

import msgspec

from checkpoint.api import Changed, Connections
from checkpoint.core import flows, pairs
from checkpoint.core.descriptors import Epoll, Place, Target, Unconnected
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.flows import Held
from checkpoint.images import added
from checkpoint.images.added import Entries, Opened
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import lending, procfd, tree
from checkpoint.processes.tree import Tree
from checkpoint.sockets import duplicates, epolls, inventory, live, multipath, unkept
from checkpoint.sockets.adopt import ForeseenSocket, PairedSocket
from checkpoint.sockets.adoption import Adoption
from checkpoint.sockets.duplicates import OpenSockets, each_shortly, epolls_of
from checkpoint.sockets.epolls import Watching
from checkpoint.sockets.inventory import INO_MASK, Inventory
from checkpoint.sockets.known import Knowing, Known
from checkpoint.sockets.legs import ends_of

_LOG = logging.getLogger(__name__)

_MOST_FREE = 4096
"""Numbers between those of descriptors: what is given to the copy takes each for a moment (`sockets.giving`)."""
_AT_ONCE = 500
"""In one message to the proxy."""
_SELINUX = Path("/sys/fs/selinux/enforce")
"""Where it rules, CRIU saves a label of each descriptor."""


class Foreseen:
    """One migration's. Before the freeze `look` and `stand`; inside it `choose`, or `forget`, `describe`, and
    `compare`; `close` at any time."""

    def __init__(self, around: Surroundings, migration: str) -> None:
        self._around, self._migration = around, migration
        self._knowing = Knowing(around.kernel)
        self._known: dict[int, Known] = {}
        """What the proxy has numbers of, by inode."""
        self._standing: dict[int, Known] = {}
        """Those among them of which both ends stand at the destination."""
        self._watching = Watching()
        self._instead: list[tuple[Unconnected, dict[Place, bool]]] = []
        """What the copy has in place of those replaced, and where."""
        self._epolls: list[Epoll] = []
        self._others: list[list[Target]] = []
        """What each of these watches besides those chosen."""
        self._unread: dict[int, int] = {}
        self._inventory = Inventory()
        self.chosen: dict[int, list[Place]] = {}
        """Where those are open that CRIU is not shown, by inode."""
        self.replaced: dict[int, list[Place]] = {}
        """Likewise those in place of which the copy has others."""
        self.left: pairs.Left | None = None
        """What CRIU's images do not say; None: they say everything."""

    async def look(self, root: int, fewest: int) -> Connections:
        """What can be made at the destination, of the workload under `root`, which runs; nothing, where that is
        of fewer connections than `fewest`. Raises AgentError."""
        found = await asyncio.to_thread(self._look, root)
        legs: list[msgspec.Raw] = []
        if len(found) >= fewest:
            legs = await self._ask_proxy(found.values())
            for one, ends in zip(found.values(), ends_of(legs), strict=True):
                one.flow = ends.flow
            self._known = found
        sockets = [self._knowing.to_make(one) for one in self._known.values()]
        return Connections(msgspec.Raw(b"[" + b",".join(map(bytes, legs)) + b"]"), sockets)

    def stand(self, numbers: Collection[int]) -> None:
        """Of these flows both ends stand at the destination."""
        standing = set(numbers)
        self._standing = {ino: one for ino, one in self._known.items() if one.flow in standing}

    def number_of(self, ino: int) -> int:
        """The one that a connection has with our proxy already; 0: none. One that goes by its image keeps it: what was
        made of it ahead is known by it."""
        return self._known[ino].number if ino in self._known else 0

    @property
    def families(self) -> dict[int, int]:
        """The address family of each, by inode."""
        return {ino: one.family for ino, one in self._standing.items()}

    @property
    def is_any(self) -> bool:
        """Whether any stands at the destination."""
        return bool(self._standing)

    async def must_hide(self, root: int) -> bool:
        """Whether the workload under `root`, which runs, has sockets that CRIU could not save."""
        return await asyncio.to_thread(self._must_hide, root)

    def _must_hide(self, root: int) -> bool:
        kernel, files = self._around.kernel, self._around.open_files
        with closing(tree.hold_all(kernel, tree.descendants(root))) as held:
            said = inventory.asked(files, held)
            if said is not None:
                return bool(said.multipath)
            return any(True for _ in each_shortly(kernel, held, duplicates.is_multipath))

    def choose(
        self, found: Inventory, unread: Iterable[tuple[int, int]], replaced: Collection[int], but: Container[int]
    ) -> None:
        """Of the stopped workload's sockets those that CRIU need not see, `but` for some inodes, and those that are to
        be `replaced`. `unread`: how many bytes each connection has that is undisturbed, by inode. Blocks: 2 us each."""
        if not self._standing and not replaced:
            return
        self._inventory = found
        try:
            if any(procfd.has_descriptors_queued(*place) for place in found.local):
                raise epolls.OddError("descriptors are on their way in a message")  # which may be any
            self.chosen = dict(self._as_foreseen((ino, much) for ino, much in unread if ino not in but))
            if not all(self._can_be_given(pid) for pid, _ in self._doors()):
                raise epolls.OddError("the numbers of descriptors are odd")  # which the copy gets them by
            self.replaced = {ino: found.multipath[ino] for ino in replaced}
            hidden = self.chosen.keys() | self.replaced.keys()
            self._epolls = self._watching.watching(self._around.kernel, found.epolls, found.inodes, hidden)
        except (epolls.OddError, OSError) as error:
            _LOG.info("%s: CRIU sees every connection: %s", self._migration, error)
            self.forget()
        finally:
            self.close()

    @property
    def shown(self) -> dict[int, list[int]]:
        """What CRIU is to see of the descriptors of each process that has some that it is not to see."""
        hidden: dict[int, set[int]] = {}
        for pid, fd in self._places():
            hidden.setdefault(pid, set()).add(fd)
        return {pid: sorted(self._inventory.numbers[pid].taken - some) for pid, some in hidden.items()}

    def held(self, ino: int) -> Held:
        """A chosen one, as the ledger has it."""
        held = self._known[ino].held
        assert held is not None
        return held

    def given(self, ino: int, sock: SocketType) -> PairedSocket:
        """A chosen one, for the proxy."""
        return PairedSocket(self._known[ino].number, self._unread[ino], sock)

    def describe(self, sockets: OpenSockets) -> None:
        """What is to be said of those chosen: `left`, and `opened`. Blocks: 2 us each. Raises AgentError."""
        self.left, self._others = None, []
        self._instead = [
            (multipath.in_place_of(ino, sockets.of(ino).sock), _flagged(places))
            for ino, places in self.replaced.items()
        ]
        connections = [self._connection(ino, places) for ino, places in self.chosen.items()]
        watches: list[pairs.Watch] = []
        for epoll in self._epolls:
            ours, others = self._apart(epoll.targets)
            self._others.append(others)
            if ours:  # else it watches another such epoll
                watches.append(pairs.Watch(*epoll.places[0], [(it.fd, it.events, it.data) for it in ours]))
        if self.chosen:
            self.left = pairs.Left(self._doors(), connections, watches)

    def _apart(self, targets: Iterable[Target]) -> tuple[list[Target], list[Target]]:
        """Those chosen, and the others."""
        ours: list[Target] = []
        others: list[Target] = []
        for one in targets:
            (ours if one.ino & INO_MASK in self.chosen else others).append(one)
        return ours, others

    def opened(self) -> Iterator[Opened]:
        """What CRIU's images are to say besides. Raises AgentError."""
        ids = count(added.FIRST_ID)
        entries = Entries(self._around.messages)
        if self.left is not None:
            yield entries.door(next(ids), self.left.doors)
        for one, places in self._instead:
            yield entries.socket(next(ids), one, places)
        for epoll, others in zip(self._epolls, self._others, strict=True):
            yield entries.epoll(next(ids), epoll, others, _flagged(epoll.places))

    def _connection(self, ino: int, places: list[Place]) -> pairs.Connection:
        """A chosen one, for the copy."""
        known = self._known[ino]
        if list(known.places) != places:
            known.places = _flagged(places)
        return pairs.Connection(known.flow, [(pid, fd, closed) for (pid, fd), closed in known.places.items()])

    def _can_be_given(self, pid: int) -> bool:
        numbers = self._inventory.numbers[pid]
        return numbers.free <= _MOST_FREE and numbers.above <= procfd.descriptor_limit(pid)

    def _doors(self) -> list[Place]:
        """A number above all others, in each process that has any of them."""
        pids = {pid for places in self.chosen.values() for pid, _ in places}
        return [(pid, self._inventory.numbers[pid].above) for pid in sorted(pids)]

    def compare(self, sockets: OpenSockets) -> list[Changed]:
        """What has changed of those chosen since they were looked at, of which these are duplicates. Blocks: 2 us
        each, 35 where the kernel was not asked. Raises AgentError for what would be lost."""
        with self._knowing.comparing(self._inventory) as comparing:
            found = (comparing.compare(ino, self._known[ino], sockets.of(ino).sock) for ino in self.chosen)
            return [one for one in found if one is not None]

    def forget(self) -> None:
        """CRIU sees all of them."""
        self.chosen, self.replaced, self._epolls, self._others, self.left = {}, {}, [], [], None
        self._instead = []

    def close(self) -> None:
        """CRIU has dumped, or will not."""
        self._watching.close()

    def _look(self, root: int) -> dict[int, Known]:
        pids = tree.descendants(root)
        if _SELINUX.exists() or not all(map(_can_lend, pids)):
            return {}
        self._around.open_files.learn()
        kernel = self._around.kernel
        held = tree.hold_all(kernel, pids)
        try:
            but = unkept.given_up(kernel, held)
            self._watching.learn(epolls_of(held))
            return self._plain(held, but)
        finally:
            held.close()

    def _plain(self, held: Tree, but: Container[int]) -> dict[int, Known]:
        """The connections that could be made ahead, by inode."""
        described: dict[int, flows.InetSocket] = {}
        found: dict[int, Known] = {}
        for place, ino, sock in each_shortly(self._around.kernel, held, _matters):
            with suppress(OSError):  # the workload closes it just now
                if ino not in described:
                    described[ino] = live.describe(ino, sock)
                    if ino not in but and (known := self._knowing.look(described[ino], sock)) is not None:
                        found[ino] = known
                if ino in found:
                    found[ino].places |= _places([place])
        candidates = [one for one in described.values() if one.listens or one.state in flows.MOVABLE]
        for one in flows.sort(candidates, described).flows:
            if one.socket.ino in found:
                found[one.socket.ino].held = one
        kept = [(ino, one) for ino, one in found.items() if one.held is not None and one.places]
        return dict(kept[: pairs.MOST])

    async def _ask_proxy(self, found: Iterable[Known]) -> list[msgspec.Raw]:
        """The legs of the pairs, in the same order. Raises AgentError."""
        adoption = Adoption(self._around.adopt_path, self._migration, lambda: None)
        try:
            legs: list[msgspec.Raw] = []
            everything = (_foreseen(one) for one in found)
            while some := list(islice(everything, _AT_ONCE)):
                legs += await adoption.foresee(some)
            return legs
        finally:
            adoption.close()

    def _as_foreseen(self, unread: Iterable[tuple[int, int]]) -> Iterator[tuple[int, list[Place]]]:
        """Those that have little unread."""
        room = pairs.ALL_UNREAD_BYTES
        for ino, much in unread:
            if ino in self._standing and much <= min(room, pairs.UNREAD_BYTES):
                room -= much
                self._unread[ino] = much
                yield ino, self._inventory.connections[ino]

    def _places(self) -> Iterator[Place]:
        for places in (*self.chosen.values(), *self.replaced.values()):
            yield from places
        for epoll in self._epolls:
            yield from epoll.places


def _matters(sock: SocketType) -> bool:
    return duplicates.is_tcp(sock) or (duplicates.is_multipath(sock) and multipath.listens(sock))


def _can_lend(pid: int) -> bool:
    """Whoever has ended meanwhile need not."""
    try:
        return lending.can_lend(pid)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ESRCH)


def _foreseen(one: Known) -> ForeseenSocket:
    assert one.held is not None
    return ForeseenSocket(one.number, one.sock.local, one.sock.peer, one.held.direction, one.mss)


def _flagged(places: Iterable[Place]) -> dict[Place, bool]:
    """`_places` of a workload that stands still. Raises AgentError."""
    try:
        return _places(places)
    except OSError as error:
        raise AgentError(Code.KERNEL, f"a descriptor cannot be looked at: {error.strerror}") from error


def _places(places: Iterable[Place]) -> dict[Place, bool]:
    """Whether each is closed on exec. Raises OSError."""
    return {place: procfd.descriptor(*place).close_on_exec for place in places}
