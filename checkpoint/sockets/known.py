"""A connection as it was while the workload ran, and what has changed of it since."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from socket import SocketType
from typing import NamedTuple

import msgspec

from checkpoint.api import Changed, Socket
from checkpoint.core import flows, readdress
from checkpoint.core.descriptors import Place
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.flows import Held
from checkpoint.core.sockopts import Option, Owner
from checkpoint.kernel import Kernel
from checkpoint.processes import procfd
from checkpoint.sockets import adopt, profile, sockopts
from checkpoint.sockets.inventory import Inventory
from checkpoint.sockets.profile import Profile, Values


class Known(msgspec.Struct):
    """One that is plain."""

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

    @property
    def sock(self) -> flows.InetSocket:
        assert self.held is not None
        return self.held.socket


class Knowing:
    """Looks at connections, and again."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._profiles: dict[int, Profile] = {}
        self._alike: dict[tuple[bytes, ...], tuple[Values, Values]] = {}
        """What is read of many connections is the same: kept once."""

    def look(self, described: flows.InetSocket, sock: SocketType) -> Known | None:
        """What there is to know of a connection; None: it is not plain. Raises OSError."""
        flags = profile.flags_of(sock)
        if described.state != readdress.ESTABLISHED or sockopts.lost_clamp(sock):
            return None
        if not profile.is_plain(self._kernel, sock, flags):
            return None
        if sock.family not in self._profiles:
            self._profiles[sock.family] = Profile(sock.family)
        ours = self._profiles[sock.family]
        read, number = ours.read(sock), int.from_bytes(os.urandom(adopt.FLOW_BYTES))
        values, watched = self._alike.setdefault(tuple(read), (read, ours.watched(read)))
        peer, mss, owner = profile.peer_of(sock), profile.segment_size(sock), sockopts.owner_of(sock)
        return Known(number, sock.family, peer, values, watched, flags, owner, mss)

    def to_make(self, one: Known) -> Socket:
        """What its like is to have."""
        options = self._profiles[one.family].differing(one.values)
        _, number = next(iter(one.places))
        return Socket(one.family, one.flags, one.owner, options, one.sock.reuse_address, number)

    @contextmanager
    def comparing(self, inventory: Inventory) -> Iterator[Comparing]:
        """With the tree's, which stands still."""
        flags = procfd.DescriptorFlags()
        try:
            yield Comparing(self, inventory, flags)
        finally:
            flags.close()

    def now(self, family: int, sock: SocketType) -> Now | None:
        """How a connection is set; None: it is not plain. About 30 us. Raises OSError."""
        flags = profile.flags_of(sock)
        if not profile.is_plain(self._kernel, sock, flags):
            return None
        return Now(flags, self._profiles[family].read_watched(sock))

    def changed(self, known: Known, now: Now) -> Changed | None:
        options: list[Option] = []
        if now.watched != known.watched:
            options = self._profiles[known.family].changed(now.watched, known.watched)
        if not options and now.flags == known.flags:
            return None
        return Changed(known.flow, options, now.flags if now.flags != known.flags else None)


class Now(NamedTuple):
    """How a connection is set, which is plain."""

    flags: int
    watched: Values


class Comparing:
    """Connections as they are, with what was known of them. Where the kernel was asked, of all that it says are set
    alike one is looked at; each of them only where that one is not as it was known."""

    def __init__(self, knowing: Knowing, inventory: Inventory, flags: procfd.DescriptorFlags) -> None:
        self._knowing, self._inventory, self._flags = knowing, inventory, flags
        self._alike: dict[tuple[int, bytes], Now] = {}
        """By the family and the settings."""

    def compare(self, ino: int, known: Known, sock: SocketType) -> Changed | None:
        """What has changed. Raises AgentError for what would be lost."""
        try:
            now = self._now(ino, known, sock)
            if now is None:
                raise _unlike(known, "was made another")
            # What is closed on exec was meant to be when the connection was made, and stays so.
            if any(self._is_closed_on_exec(place) for place, closed in known.places.items() if not closed):
                raise _unlike(known, "got other descriptors")
        except OSError as error:
            raise _unlike(known, f"cannot be looked at ({error.strerror})") from error
        return self._knowing.changed(known, now)

    def _now(self, ino: int, known: Known, sock: SocketType) -> Now | None:
        said = self._inventory.said.get(ino)
        if said is None:
            return self._knowing.now(known.family, sock) if profile.peer_of(sock) == known.peer else None
        if not profile.is_peer(known.family, known.peer, said.port, said.peer, said.peer6):
            return None
        alike = known.family, said.settings
        now = self._alike.get(alike)
        if now is None or (now.flags, now.watched) != (known.flags, known.watched):  # what is new each says itself
            now = self._knowing.now(known.family, sock)
            if now is not None:
                self._alike[alike] = now
        return now

    def _is_closed_on_exec(self, place: Place) -> bool:
        if self._inventory.said:
            return place in self._inventory.closed_on_exec
        return self._flags.closed_on_exec(*place)


def _unlike(known: Known, how: str) -> AgentError:
    words = f"the connection {known.sock} {how} as it was about to move: try again"
    return AgentError(Code.CONNECTION_STATE, words)
