"""The connections of a workload whose ends at the destination are made before the freeze: each is a pair there
(`checkpoint.core.pairs`), and CRIU is shown none of them.

To CRIU a connection takes 75 us at the source and 60 us at the destination, and as long again to us: its image is
edited, sent, proved. What it says is nearly all known while the workload runs. So it is looked at then, and inside the
freeze only whether it is still there; what may have changed of its options is looked for while the copy is restored.
A connection that is not plain goes by its image, as do those that come too late.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from socket import SocketType

import msgspec

from checkpoint.api import Changed, Connections, Socket
from checkpoint.core import flows, pairs, readdress
from checkpoint.core.descriptors import Epoll, Place
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.flows import Held
from checkpoint.core.sockopts import Owner
from checkpoint.images import added
from checkpoint.images.added import Entries, Opened
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import procfs, tree
from checkpoint.processes.tree import Tree
from checkpoint.sockets import adopt, epolls, live, profile, sockopts, unkept
from checkpoint.sockets.adopt import Adoption, ForeseenSocket, PairedSocket
from checkpoint.sockets.duplicates import OpenSocket, OpenSockets, each_shortly, epolls_of
from checkpoint.sockets.epolls import Watching
from checkpoint.sockets.profile import Profile, Values

_LOG = logging.getLogger(__name__)

_AT_ONCE = 500
"""In one message to the proxy."""
_SELINUX = Path("/sys/fs/selinux/enforce")
"""Where it rules, CRIU saves a label of each descriptor."""


class _Known(msgspec.Struct):
    """A connection as it was while the workload ran."""

    number: int
    """The one that it has with our proxy."""
    family: int
    peer: bytes
    values: Values
    watched: Values
    flags: int
    owner: Owner
    mss: int
    places: dict[Place, bool] = {}
    """Whether each is closed on exec."""
    held: Held | None = None
    """None: both its ends are in the tree."""
    flow: int = 0
    """The number that it has wherever it goes."""
    opened: Opened | None = None
    """What CRIU's images are to say of it, where both its ends stand at the destination."""

    @property
    def sock(self) -> flows.InetSocket:
        assert self.held is not None
        return self.held.socket


class Foreseen:
    """One migration's. Before the freeze `look` and `stand`; inside it `choose`, or `forget`, and `compare`."""

    def __init__(self, around: Surroundings, migration: str) -> None:
        self._around, self._migration = around, migration
        self._profiles: dict[int, Profile] = {}
        self._alike: dict[tuple[bytes, ...], tuple[Values, Values]] = {}
        """What is read of many connections is the same: kept once."""
        self._known: dict[int, _Known] = {}
        """What the proxy has numbers of, by inode."""
        self._standing: dict[int, _Known] = {}
        """Those among them of which both ends stand at the destination."""
        self._ids = count(added.FIRST_ID)
        self._entries = Entries(around.messages)
        self._watching = Watching()
        self._epolls: list[Epoll] = []
        self._unread: dict[int, int] = {}
        self.chosen: dict[int, OpenSocket] = {}
        """Those that CRIU is not shown, by inode."""

    async def look(self, root: int, fewest: int) -> Connections:
        """What can be made at the destination, of the workload under `root`, which runs; nothing, where that is
        of fewer connections than `fewest`. Raises AgentError."""
        found = await asyncio.to_thread(self._look, root)
        legs: list[msgspec.Raw] = []
        if len(found) >= fewest:
            legs = await self._ask_proxy(found.values())
            for one, ends in zip(found.values(), adopt.ends_of(legs), strict=True):
                one.flow = ends.flow
            self._known = found
        sockets = [self._socket(one) for one in self._known.values()]
        return Connections(msgspec.Raw(b"[" + b",".join(map(bytes, legs)) + b"]"), sockets)

    def stand(self, numbers: Collection[int]) -> None:
        """Of these flows both ends stand at the destination. Blocks: 10 us each."""
        standing = set(numbers)
        self._entries.learn(self._watching.targets)
        self._standing = {ino: one for ino, one in self._known.items() if one.flow in standing}
        for one in self._standing.values():
            one.opened = self._entries.inherited(next(self._ids), one.flow, one.places)

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

    def choose(self, sockets: OpenSockets, but: Container[int]) -> None:
        """Of the stopped workload's sockets those that CRIU need not see, `but` for some inodes. Blocks: 5 us each."""
        opened = {ino: one for ino, one in sockets.by_ino.items() if ino in self._standing and ino not in but}
        if not opened:
            return
        try:
            if any(procfs.has_descriptors_queued(*place) for place in sockets.local):
                raise epolls.OddError("descriptors are on their way in a message")  # which may be any
            self.chosen = dict(self._as_foreseen(opened))
            inodes = {place: ino for ino, one in sockets.by_ino.items() for place in one.places}
            self._epolls = self._watching.watching(self._around.kernel, sockets.epolls, inodes, self.chosen)
        except (epolls.OddError, OSError) as error:
            _LOG.info("%s: CRIU sees every connection: %s", self._migration, error)
            self.forget()

    @property
    def hidden(self) -> dict[int, list[int]]:
        """The descriptors of each process that CRIU is not to see."""
        found: dict[int, list[int]] = {}
        for pid, fd in self._places():
            found.setdefault(pid, []).append(fd)
        return found

    def held(self, ino: int) -> Held:
        """A chosen one, as the ledger has it."""
        held = self._known[ino].held
        assert held is not None
        return held

    def given(self, ino: int) -> PairedSocket:
        """A chosen one, for the proxy."""
        return PairedSocket(self._known[ino].number, self._unread[ino], self.chosen[ino].sock)

    @property
    def numbers(self) -> list[int]:
        """Those chosen, by the numbers that they have wherever they go."""
        return [self._known[ino].flow for ino in self.chosen]

    def opened(self) -> Iterator[Opened]:
        """What CRIU's images are to say besides. Raises OSError."""
        for ino, one in self.chosen.items():
            known = self._known[ino]
            if list(known.places) != one.places:
                known.places = _places(one.places)
                known.opened = self._entries.inherited(next(self._ids), known.flow, known.places)
            assert known.opened is not None
            yield known.opened
        for epoll in self._epolls:
            yield self._entries.epoll(next(self._ids), epoll, _places(epoll.places))

    def compare(self) -> list[Changed]:
        """What has changed of those chosen since they were looked at, whose duplicates must be there still. Blocks: 50
        us each. Raises AgentError for what would be lost."""
        flags = procfs.DescriptorFlags()
        try:
            found = (self._compare(self._known[ino], one, flags) for ino, one in self.chosen.items())
            return [one for one in found if one is not None]
        finally:
            flags.close()

    def forget(self) -> None:
        """CRIU sees all of them."""
        self.chosen, self._epolls = {}, []

    def _look(self, root: int) -> dict[int, _Known]:
        if _SELINUX.exists():
            return {}
        kernel = self._around.kernel
        held = tree.hold_all(kernel, tree.descendants(root))
        try:
            but = unkept.given_up(kernel, held)
            self._watching.learn(epolls_of(held))
            return self._plain(held, but)
        finally:
            held.close()

    def _plain(self, held: Tree, but: Container[int]) -> dict[int, _Known]:
        """The connections that could be made ahead, by inode."""
        described: dict[int, flows.InetSocket] = {}
        found: dict[int, _Known] = {}
        for place, ino, sock in each_shortly(self._around.kernel, held):
            with suppress(OSError):  # the workload closes it just now
                if ino not in described:
                    described[ino] = live.describe(ino, sock)
                    if ino not in but and (known := self._know(described[ino], sock)) is not None:
                        found[ino] = known
                if ino in found:
                    found[ino].places |= _places([place])
        candidates = [one for one in described.values() if one.listens or one.state in flows.MOVABLE]
        for one in flows.sort(candidates, described).flows:
            if one.socket.ino in found:
                found[one.socket.ino].held = one
        kept = [(ino, one) for ino, one in found.items() if one.held is not None and one.places]
        return dict(kept[: pairs.MOST])

    def _know(self, described: flows.InetSocket, sock: SocketType) -> _Known | None:
        """What there is to know of a connection that is plain."""
        flags = profile.flags_of(sock)
        if described.state != readdress.ESTABLISHED or sockopts.lost_clamp(sock):
            return None
        if not profile.is_plain(self._around.kernel, sock, flags):
            return None
        if sock.family not in self._profiles:
            self._profiles[sock.family] = Profile(sock.family)
        ours = self._profiles[sock.family]
        read, number = ours.read(sock), int.from_bytes(os.urandom(adopt.FLOW_BYTES))
        values, watched = self._alike.setdefault(tuple(read), (read, ours.watched(read)))
        peer, mss, owner = profile.peer_of(sock), profile.segment_size(sock), sockopts.owner_of(sock)
        return _Known(number, sock.family, peer, values, watched, flags, owner, mss)

    async def _ask_proxy(self, found: Iterable[_Known]) -> list[msgspec.Raw]:
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

    def _socket(self, one: _Known) -> Socket:
        ours = self._profiles[one.family]
        options = ours.differing(one.values)
        return Socket(one.family, one.flags, one.owner, options, one.sock.reuse_address)

    def _as_foreseen(self, opened: Mapping[int, OpenSocket]) -> Iterator[tuple[int, OpenSocket]]:
        """Those that neither end has shut down, and that have little unread, none of it urgent."""
        happened, room = _happened(opened.values()), pairs.ALL_UNREAD_BYTES
        for ino, one in opened.items():
            seen = happened.get(one.sock.fileno(), 0)
            # What the application itself has shut down of its receiving only this says, of its sending only the state.
            if seen & ~select.POLLIN or live.state_of(one.sock) != readdress.ESTABLISHED:
                continue
            unread = live.unread(one.sock) if seen else 0
            if unread <= min(room, pairs.UNREAD_BYTES):
                room -= unread
                self._unread[ino] = unread
                yield ino, one

    def _places(self) -> Iterator[Place]:
        for one in self.chosen.values():
            yield from one.places
        for epoll in self._epolls:
            yield from epoll.places

    def _compare(self, known: _Known, one: OpenSocket, descriptors: procfs.DescriptorFlags) -> Changed | None:
        try:
            ours, flags = self._profiles[known.family], profile.flags_of(one.sock)
            if profile.peer_of(one.sock) != known.peer or not profile.is_plain(self._around.kernel, one.sock, flags):
                raise _unlike(known, "was made another")
            # What is closed on exec was meant to be when the connection was made, and stays so.
            if any(descriptors.closed_on_exec(*place) for place, closed in known.places.items() if not closed):
                raise _unlike(known, "got other descriptors")
            values = ours.read_watched(one.sock)
        except OSError as error:
            raise _unlike(known, f"cannot be looked at ({error.strerror})") from error
        options = ours.changed(values, known.watched) if values != known.watched else []
        if not options and flags == known.flags:
            return None
        return Changed(known.flow, options, flags if flags != known.flags else None)


def _unlike(known: _Known, how: str) -> AgentError:
    words = f"the connection {known.sock} {how} as it was about to move: try again"
    return AgentError(Code.CONNECTION_STATE, words)


def _foreseen(one: _Known) -> ForeseenSocket:
    assert one.held is not None
    return ForeseenSocket(one.number, one.sock.local, one.sock.peer, one.held.direction, one.mss)


def _happened(opened: Iterable[OpenSocket]) -> dict[int, int]:
    """What poll(2) says of each, by our descriptor, where it says anything."""
    poll = select.poll()
    for one in opened:
        poll.register(one.sock.fileno(), select.POLLIN | select.POLLPRI | select.POLLRDHUP)
    return dict(poll.poll(0))


def _places(places: Iterable[Place]) -> dict[Place, bool]:
    """Whether each is closed on exec. Raises OSError."""
    return {place: procfs.descriptor(*place).close_on_exec for place in places}
