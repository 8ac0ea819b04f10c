"""A connection as it was while the workload ran, and what has changed of it since."""

from __future__ import annotations

import os
from socket import SocketType

import msgspec

from checkpoint.api import Changed, Socket
from checkpoint.core import flows, readdress
from checkpoint.core.descriptors import Place
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.flows import Held
from checkpoint.core.sockopts import Owner
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.sockets import adopt, profile, sockopts
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
        return Socket(one.family, one.flags, one.owner, options, one.sock.reuse_address)

    def compare(self, known: Known, sock: SocketType, descriptors: procfs.DescriptorFlags) -> Changed | None:
        """What has changed since it was looked at. About 35 us. Raises AgentError for what would be lost."""
        try:
            ours, flags = self._profiles[known.family], profile.flags_of(sock)
            if profile.peer_of(sock) != known.peer or not profile.is_plain(self._kernel, sock, flags):
                raise _unlike(known, "was made another")
            # What is closed on exec was meant to be when the connection was made, and stays so.
            if any(descriptors.closed_on_exec(*place) for place, closed in known.places.items() if not closed):
                raise _unlike(known, "got other descriptors")
            values = ours.read_watched(sock)
        except OSError as error:
            raise _unlike(known, f"cannot be looked at ({error.strerror})") from error
        options = ours.changed(values, known.watched) if values != known.watched else []
        if not options and flags == known.flags:
            return None
        return Changed(known.flow, options, flags if flags != known.flags else None)


def _unlike(known: Known, how: str) -> AgentError:
    words = f"the connection {known.sock} {how} as it was about to move: try again"
    return AgentError(Code.CONNECTION_STATE, words)
