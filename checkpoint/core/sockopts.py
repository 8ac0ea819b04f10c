"""Which options of a TCP socket CRIU does not save, found by setting each and looking at the copy. Pure: a table.

In the order in which they are set. TCP_WINDOW_CLAMP and TCP_MAXSEG are not here: what getsockopt gives is the kernel's
own present value, not what an application has set.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

SOL_SOCKET, IPPROTO_IP, IPPROTO_TCP, IPPROTO_IPV6 = 1, 0, 6, 41


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


class SocketOptions(msgspec.Struct, frozen=True):
    """What one socket has and CRIU would lose: where the socket is, and (name, level, number, value in hex) of each."""

    pid: int
    fd: int
    options: list[tuple[str, int, int, str]]


def lost(found: dict[SocketOption, bytes], fresh: dict[SocketOption, bytes]) -> list[tuple[str, int, int, str]]:
    """The options that are not as a fresh socket has them, to be set in this order."""
    differing = [one for one in found if found[one] != fresh.get(one) and one != PRIORITY]
    if differing and PRIORITY in found:
        differing.append(PRIORITY)
    return [(one.name, one.level, one.number, found[one].hex()) for one in differing]
