"""Which sockets of a dumped tree are flows, and which way each goes. Pure: decoded image entries in, decisions out."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from checkpoint.core import readdress as tcp
from checkpoint.core.errors import AgentError, Code

IPPROTO_TCP, SOCK_STREAM = 6, 1
IPPROTO_UDP, SOCK_DGRAM = 17, 2

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

_Words = tuple[tuple[int, ...], int]
"""An end as the images have it: text would be slow to make, and is only made for those who read it."""
_EVERY_ADDRESS = ((0,), (0, 0, 0, 0))
_MAPPED = tcp.words_of("0.0.0.0", 4)[:3]


class InetSocket(msgspec.Struct, frozen=True):
    """An inet_sk_entry of files.img, without what nobody here asks for."""

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

    @property
    def takes_datagrams(self) -> bool:
        """(One on the loopback hears from its own pod alone, and in its new one from that.)"""
        udp = self.proto == IPPROTO_UDP and self.type == SOCK_DGRAM and self.source_port != 0
        return udp and self.local[0] != "::1" and not self.local[0].startswith("127.")

    def __str__(self) -> str:
        return f"{_text(self.local)} to {_text(self.peer)} ({STATE_NAMES.get(self.state, self.state)})"


class Held(msgspec.Struct, frozen=True):
    """A socket that the proxy shall adopt."""

    socket: InetSocket
    direction: Direction


@dataclass(frozen=True)
class Sorted:
    flows: list[Held]
    listeners: list[Held]
    inside: list[InetSocket]
    """Connections with both ends in the tree: they move as they are."""
    datagrams: list[Held]
    """UDP sockets that have an address others can send to."""


def sort(sockets: Iterable[InetSocket], in_hand: Container[int], datagrams: Container[int] = ()) -> Sorted:
    """Tell flows, listeners and connections inside the tree apart; of those `in_hand`, by inode, there are duplicates.

    Likewise of the UDP sockets in `datagrams`.

    Raises AgentError CONNECTION_STATE or UNSUPPORTED_SOCKET, naming the connection, for one that cannot be moved.
    """
    sockets = list(sockets)
    stream = [one for one in sockets if one.is_tcp]
    connected = [(one, *_ends(one)) for one in stream if one.connected]
    ends = {(local, peer) for _, local, peer in connected}
    listeners = [one for one in stream if one.listens]
    listening = {_ends(one)[0] for one in listeners}
    everywhere = {port for words, port in listening if words in _EVERY_ADDRESS}
    found = Sorted([], [Held(one, "inbound") for one in listeners], [], [])
    found.datagrams.extend(Held(one, "inbound") for one in sockets if one.takes_datagrams and one.ino in datagrams)
    for one, local, peer in connected:
        if (peer, local) in ends:
            found.inside.append(one)
        else:
            _check(one)
            # From a port that the tree listens on: the peer has opened it. Any other was opened by the workload.
            inbound = local in listening or local[1] in everywhere
            found.flows.append(Held(one, "inbound" if inbound else "outbound"))
    for held in (*found.listeners, *found.flows):
        if held.socket.ino not in in_hand:
            raise AgentError(Code.UNSUPPORTED_SOCKET, _adrift(held.socket))
    return found


def agree(one: Held, other: Held) -> bool:
    """Whether two accounts of a connection say the same of what the proxy is told."""
    return one.direction == other.direction and _told(one.socket) == _told(other.socket)


def _told(one: InetSocket) -> tuple[object, ...]:
    return one.state, one.source, one.source_port, one.destination, one.destination_port


def _ends(one: InetSocket) -> tuple[_Words, _Words]:
    """Both ends as words and port, to be compared: an IPv4-mapped IPv6 address is the IPv4 address that it is."""
    own, other = one.source, one.destination
    if own[:3] == _MAPPED:
        own = own[3:]
    if other[:3] == _MAPPED:
        other = other[3:]
    return (own, one.source_port), (other, one.destination_port)


def _check(one: InetSocket) -> None:
    if one.state not in MOVABLE:
        raise AgentError(Code.CONNECTION_STATE, f"the connection {one} is still being opened")


def _adrift(one: InetSocket) -> str:
    return f"the connection {one} is in no process: it is on its way in a message"


def _text(end: End) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
