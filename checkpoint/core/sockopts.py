"""Which options of a TCP socket CRIU does not save, found by setting each and looking at the copy. Pure: a table.

In the order in which they are set.

TCP_WINDOW_CLAMP and TCP_MAXSEG need care: of a connection getsockopt(2) gives the kernel's own present value.

- TCP_MAXSEG of a connection has done its work when that was made: it is in the connection's maximum segment size, which
  CRIU saves. Of other sockets it is read and set as it is (536, the default, looks like none).
- The kernel moves the clamp of a connection along with the receive buffer and with how well segments fill it (K:
  tcp_input.c, tcp_measure_rcv_mss, tcp_rcv_space_adjust), and begins at half of the buffer less a segment. One that is
  clearly below that, or that somebody keeps there with SO_RCVBUF, is carried; CRIU's copy has none.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

SOL_SOCKET, IPPROTO_IP, IPPROTO_TCP, IPPROTO_IPV6 = 1, 0, 6, 41
_INT = struct.Struct("=i")


class SocketOption(NamedTuple):
    name: str
    level: int
    number: int
    length: int = 4
    """Bytes of its value."""


PRIORITY = SocketOption("SO_PRIORITY", SOL_SOCKET, 12)
"""CRIU does save it, but setting IP_TOS changes it (K: ip_sockglue.c, __ip_sock_set_tos)."""

EVERY = (
    SocketOption("TCP_CONGESTION", IPPROTO_TCP, 13, 16),
    SocketOption("TCP_SYNCNT", IPPROTO_TCP, 7),
    SocketOption("TCP_LINGER2", IPPROTO_TCP, 8),
    SocketOption("TCP_THIN_LINEAR_TIMEOUTS", IPPROTO_TCP, 16),
    SocketOption("TCP_USER_TIMEOUT", IPPROTO_TCP, 18),
    SocketOption("TCP_NOTSENT_LOWAT", IPPROTO_TCP, 25),
    SocketOption("SO_TIMESTAMP", SOL_SOCKET, 29),
    SocketOption("SO_TIMESTAMPNS", SOL_SOCKET, 35),
    SocketOption("SO_BUSY_POLL", SOL_SOCKET, 46),
    SocketOption("SO_MAX_PACING_RATE", SOL_SOCKET, 47),
    SocketOption("SO_ZEROCOPY", SOL_SOCKET, 60),
    SocketOption("IP_TOS", IPPROTO_IP, 1),
    SocketOption("IP_TTL", IPPROTO_IP, 2),
    SocketOption("IP_MTU_DISCOVER", IPPROTO_IP, 10),
    SocketOption("IP_RECVTOS", IPPROTO_IP, 13),
    SocketOption("IP_TRANSPARENT", IPPROTO_IP, 19),
    SocketOption("IP_BIND_ADDRESS_NO_PORT", IPPROTO_IP, 24),
)

LISTENING = (SocketOption("TCP_DEFER_ACCEPT", IPPROTO_TCP, 9), SocketOption("TCP_FASTOPEN", IPPROTO_TCP, 23))

IPV6 = (
    SocketOption("IPV6_UNICAST_HOPS", IPPROTO_IPV6, 16),
    SocketOption("IPV6_MTU_DISCOVER", IPPROTO_IPV6, 23),
    SocketOption("IPV6_RECVTCLASS", IPPROTO_IPV6, 66),
    SocketOption("IPV6_TCLASS", IPPROTO_IPV6, 67),
)


WINDOW_CLAMP = SocketOption("TCP_WINDOW_CLAMP", IPPROTO_TCP, 10)
MAXSEG = SocketOption("TCP_MAXSEG", IPPROTO_TCP, 2)
UNCONNECTED = (WINDOW_CLAMP, MAXSEG)
"""Listening, or not connected yet: connections take them over."""
MAX_MAXSEG = 32767
"""More cannot be set (K: MAX_TCP_WINDOW); a connection over loopback that has ended shows more."""
BINDING_SHARE = 3 / 8
"""A smaller part of the receive buffer is not what the kernel gives (1/2 less a segment of 9 kB, of the default)."""


Owner = tuple[int, int]
"""The user and the group that a socket belongs to: whoever has made it, or fchown(2)."""


class SocketOptions(msgspec.Struct, frozen=True):
    """What one socket has and CRIU would lose: where the socket is, and (name, level, number, value in hex) of each."""

    pid: int
    fd: int
    options: list[tuple[str, int, int, str]]
    owner: Owner | None = None
    """None: CRIU's."""


def lost(found: dict[SocketOption, bytes], fresh: dict[SocketOption, bytes]) -> list[tuple[str, int, int, str]]:
    """The options that are not as a fresh socket has them, to be set in this order."""
    differing = [one for one in found if found[one] != fresh.get(one) and one != PRIORITY]
    if MAXSEG in differing and _INT.unpack(found[MAXSEG])[0] > MAX_MAXSEG:
        differing.remove(MAXSEG)
    if differing and PRIORITY in found:
        differing.append(PRIORITY)
    return [(one.name, one.level, one.number, found[one].hex()) for one in differing]


def lost_clamp(clamp: int, receive_buffer: int) -> list[tuple[str, int, int, str]]:
    """Of a connection: its window clamp, where that is somebody's wish. Sizes in bytes, as getsockopt(2) gives them."""
    if clamp >= receive_buffer * BINDING_SHARE:
        return []
    return [(WINDOW_CLAMP.name, WINDOW_CLAMP.level, WINDOW_CLAMP.number, _INT.pack(clamp).hex())]
