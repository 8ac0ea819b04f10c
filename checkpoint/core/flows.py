"""Which sockets of a dumped tree are flows, and which way each goes. Pure: decoded image entries in, decisions out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Literal

from checkpoint.core import readdress as tcp
from checkpoint.core.errors import AgentError, Code

IPPROTO_TCP, SOCK_STREAM = 6, 1

MOVABLE = frozenset(
    {tcp.ESTABLISHED, tcp.CLOSE_WAIT, tcp.FIN_WAIT1, tcp.FIN_WAIT2, tcp.LAST_ACK, tcp.CLOSING, tcp.CLOSE},
)
"""States of a connection with two sequence numbers that can be carried on. SYN_SENT and SYN_RECV have only one yet.

CLOSE has both: the connection was reset or has ended, and the workload has yet to see that. It moves as if it were
established, and its app leg passes on what its peer leg says: what is unread, then the reset or the end.
"""

STATE_NAMES = {
    tcp.ESTABLISHED: "ESTABLISHED", tcp.SYN_SENT: "SYN_SENT", tcp.SYN_RECV: "SYN_RECV", tcp.FIN_WAIT1: "FIN_WAIT1",
    tcp.FIN_WAIT2: "FIN_WAIT2", tcp.TIME_WAIT: "TIME_WAIT", tcp.CLOSE: "CLOSE", tcp.CLOSE_WAIT: "CLOSE_WAIT",
    tcp.LAST_ACK: "LAST_ACK", tcp.LISTEN: "LISTEN", tcp.CLOSING: "CLOSING",
}  # fmt: skip

Direction = Literal["inbound", "outbound"]
End = tuple[str, int]
"""A literal address and a port."""

_EVERY_ADDRESS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class InetSocket:
    """An inet_sk_entry of files.img, without what nobody here asks for."""

    file_id: int
    ino: int
    type: int
    proto: int
    state: int
    source: tuple[int, ...]
    source_port: int
    destination: tuple[int, ...]
    destination_port: int
    backlog: int
    reuse_address: bool

    @property
    def local(self) -> End:
        return tcp.host_of(self.source), self.source_port

    @property
    def peer(self) -> End:
        return tcp.host_of(self.destination), self.destination_port

    @property
    def is_tcp(self) -> bool:
        return self.proto == IPPROTO_TCP and self.type == SOCK_STREAM

    @property
    def listens(self) -> bool:
        return self.is_tcp and self.state == tcp.LISTEN

    @property
    def connected(self) -> bool:
        return self.is_tcp and self.destination_port != 0

    def __str__(self) -> str:
        return f"{_text(self.local)} to {_text(self.peer)} ({STATE_NAMES.get(self.state, self.state)})"


@dataclass(frozen=True)
class Descriptor:
    """One place where a file is open: a process and its descriptor number."""

    pid: int
    fd: int


@dataclass(frozen=True)
class Held:
    """A socket that the proxy shall adopt, and where a duplicate of it can be had."""

    socket: InetSocket
    at: Descriptor
    direction: Direction


@dataclass(frozen=True)
class Sorted:
    flows: list[Held]
    listeners: list[Held]
    inside: list[InetSocket]
    """Connections with both ends in the tree: they move as they are."""


def sort(sockets: Iterable[InetSocket], places: Mapping[int, Descriptor]) -> Sorted:
    """Tell flows, listeners and connections inside the tree apart; `places` maps a file id to one descriptor of it.

    Raises AgentError CONNECTION_STATE or UNSUPPORTED_SOCKET, naming the connection, for one that cannot be moved.
    """
    stream = [one for one in sockets if one.is_tcp]
    ends = {(one.local, one.peer) for one in stream if one.connected}
    listening = {one.local for one in stream if one.listens}
    found = Sorted([], [], [])
    for one in stream:
        if one.listens:
            found.listeners.append(Held(one, _place(one, places), "inbound"))
        elif one.connected and (one.peer, one.local) in ends:
            found.inside.append(one)
        elif one.connected:
            _check(one)
            found.flows.append(Held(one, _place(one, places), direction_of(one, listening)))
    return found


def direction_of(one: InetSocket, listening: Set[End]) -> Direction:
    """A connection from a port the tree listens on was opened by the peer; any other by the workload."""
    host, port = one.local
    inbound = (host, port) in listening or any((every, port) in listening for every in _EVERY_ADDRESS)
    return "inbound" if inbound else "outbound"


def _check(one: InetSocket) -> None:
    if one.state not in MOVABLE:
        raise AgentError(Code.CONNECTION_STATE, f"the connection {one} is still being opened")


def _place(one: InetSocket, places: Mapping[int, Descriptor]) -> Descriptor:
    if one.file_id not in places:
        raise AgentError(
            Code.UNSUPPORTED_SOCKET, f"the connection {one} is in no process: it is on its way in a message"
        )
    return places[one.file_id]


def _text(end: End) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
