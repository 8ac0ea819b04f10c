"""Which options of a TCP or UDP socket CRIU does not save: found by setting each and looking at the copy. A table.

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

SOL_SOCKET, IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_IPV6 = 1, 0, 6, 17, 41
_INT = struct.Struct("=i")


class SocketOption(NamedTuple):
    name: str
    level: int
    number: int
    length: int = 4
    """Bytes of its value."""


PRIORITY = SocketOption("SO_PRIORITY", SOL_SOCKET, 12)
"""CRIU does save it, but setting IP_TOS changes it (K: ip_sockglue.c, __ip_sock_set_tos)."""
TOS = SocketOption("IP_TOS", IPPROTO_IP, 1)

EVERY = (
    SocketOption("SO_TIMESTAMP", SOL_SOCKET, 29),
    SocketOption("SO_TIMESTAMPNS", SOL_SOCKET, 35),
    SocketOption("SO_TIMESTAMPING", SOL_SOCKET, 37),
    SocketOption("SO_BUSY_POLL", SOL_SOCKET, 46),
    SocketOption("SO_MAX_PACING_RATE", SOL_SOCKET, 47),
    SocketOption("SO_ZEROCOPY", SOL_SOCKET, 60),
    TOS,
    SocketOption("IP_TTL", IPPROTO_IP, 2),
    SocketOption("IP_MTU_DISCOVER", IPPROTO_IP, 10),
    SocketOption("IP_RECVTOS", IPPROTO_IP, 13),
    SocketOption("IP_TRANSPARENT", IPPROTO_IP, 19),
    SocketOption("IP_MINTTL", IPPROTO_IP, 21),
    SocketOption("IP_BIND_ADDRESS_NO_PORT", IPPROTO_IP, 24),
)

IPV6 = (
    SocketOption("IPV6_UNICAST_HOPS", IPPROTO_IPV6, 16),
    SocketOption("IPV6_MTU_DISCOVER", IPPROTO_IPV6, 23),
    SocketOption("IPV6_RECVTCLASS", IPPROTO_IPV6, 66),
    SocketOption("IPV6_TCLASS", IPPROTO_IPV6, 67),
    SocketOption("IPV6_MINHOPCOUNT", IPPROTO_IPV6, 73),
)

STREAM = (
    SocketOption("TCP_CONGESTION", IPPROTO_TCP, 13, 16),
    SocketOption("TCP_SYNCNT", IPPROTO_TCP, 7),
    SocketOption("TCP_LINGER2", IPPROTO_TCP, 8),
    SocketOption("TCP_THIN_LINEAR_TIMEOUTS", IPPROTO_TCP, 16),
    SocketOption("TCP_USER_TIMEOUT", IPPROTO_TCP, 18),
    SocketOption("TCP_NOTSENT_LOWAT", IPPROTO_TCP, 25),
    SocketOption("TCP_INQ", IPPROTO_TCP, 36),
)

LISTENING = (
    SocketOption("TCP_DEFER_ACCEPT", IPPROTO_TCP, 9),
    SocketOption("TCP_FASTOPEN", IPPROTO_TCP, 23),
    SocketOption("TCP_SAVE_SYN", IPPROTO_TCP, 27),
)

DATAGRAM = (
    SocketOption("SO_RXQ_OVFL", SOL_SOCKET, 40),
    SocketOption("SO_SELECT_ERR_QUEUE", SOL_SOCKET, 45),
    SocketOption("SO_PREFER_BUSY_POLL", SOL_SOCKET, 69),
    SocketOption("SO_RCVMARK", SOL_SOCKET, 75),
    SocketOption("IP_RECVOPTS", IPPROTO_IP, 6),
    SocketOption("IP_PKTINFO", IPPROTO_IP, 8),
    SocketOption("IP_RECVERR", IPPROTO_IP, 11),
    SocketOption("IP_RECVTTL", IPPROTO_IP, 12),
    SocketOption("IP_PASSSEC", IPPROTO_IP, 18),
    SocketOption("IP_RECVORIGDSTADDR", IPPROTO_IP, 20),
    SocketOption("IP_CHECKSUM", IPPROTO_IP, 23),
    SocketOption("IP_RECVFRAGSIZE", IPPROTO_IP, 25),
    SocketOption("IP_RECVERR_RFC4884", IPPROTO_IP, 26),
    SocketOption("IP_MULTICAST_TTL", IPPROTO_IP, 33),
    SocketOption("IP_MULTICAST_LOOP", IPPROTO_IP, 34),
    SocketOption("IP_MULTICAST_ALL", IPPROTO_IP, 49),
    SocketOption("IP_LOCAL_PORT_RANGE", IPPROTO_IP, 51),
    SocketOption("UDP_NO_CHECK6_TX", IPPROTO_UDP, 101),
    SocketOption("UDP_NO_CHECK6_RX", IPPROTO_UDP, 102),
    SocketOption("UDP_SEGMENT", IPPROTO_UDP, 103),
    SocketOption("UDP_GRO", IPPROTO_UDP, 104),
)

DATAGRAM_IPV6 = (
    SocketOption("IPV6_FLOWINFO", IPPROTO_IPV6, 11),
    SocketOption("IPV6_MULTICAST_HOPS", IPPROTO_IPV6, 18),
    SocketOption("IPV6_MULTICAST_LOOP", IPPROTO_IPV6, 19),
    SocketOption("IPV6_RECVERR", IPPROTO_IPV6, 25),
    SocketOption("IPV6_MULTICAST_ALL", IPPROTO_IPV6, 29),
    SocketOption("IPV6_RECVERR_RFC4884", IPPROTO_IPV6, 31),
    SocketOption("IPV6_FLOWINFO_SEND", IPPROTO_IPV6, 33),
    SocketOption("IPV6_RECVHOPLIMIT", IPPROTO_IPV6, 51),
    SocketOption("IPV6_RECVHOPOPTS", IPPROTO_IPV6, 53),
    SocketOption("IPV6_RECVRTHDR", IPPROTO_IPV6, 56),
    SocketOption("IPV6_RECVDSTOPTS", IPPROTO_IPV6, 58),
    SocketOption("IPV6_RECVPATHMTU", IPPROTO_IPV6, 60),
    SocketOption("IPV6_DONTFRAG", IPPROTO_IPV6, 62),
    SocketOption("IPV6_AUTOFLOWLABEL", IPPROTO_IPV6, 70),
    SocketOption("IPV6_ADDR_PREFERENCES", IPPROTO_IPV6, 72),
    SocketOption("IPV6_RECVORIGDSTADDR", IPPROTO_IPV6, 74),
    SocketOption("IPV6_RECVFRAGSIZE", IPPROTO_IPV6, 77),
)


REUSE_PORT = SocketOption("SO_REUSEPORT", SOL_SOCKET, 15)
SEND_BUFFER = SocketOption("SO_SNDBUF", SOL_SOCKET, 7)
RECEIVE_BUFFER = SocketOption("SO_RCVBUF", SOL_SOCKET, 8)
BUFFER_LOCK = SocketOption("SO_BUF_LOCK", SOL_SOCKET, 72)

SAVED = (
    SocketOption("SO_DONTROUTE", SOL_SOCKET, 5),
    SocketOption("SO_BROADCAST", SOL_SOCKET, 6),
    SocketOption("SO_KEEPALIVE", SOL_SOCKET, 9),
    SocketOption("SO_OOBINLINE", SOL_SOCKET, 10),
    SocketOption("SO_NO_CHECK", SOL_SOCKET, 11),
    SocketOption("SO_LINGER", SOL_SOCKET, 13, 8),
    SocketOption("SO_RCVLOWAT", SOL_SOCKET, 18),
    SocketOption("SO_RCVTIMEO", SOL_SOCKET, 20, 16),
    SocketOption("SO_SNDTIMEO", SOL_SOCKET, 21, 16),
    SocketOption("SO_MARK", SOL_SOCKET, 36),
    SocketOption("TCP_NODELAY", IPPROTO_TCP, 1),
    SocketOption("TCP_CORK", IPPROTO_TCP, 3),
    SocketOption("TCP_KEEPIDLE", IPPROTO_TCP, 4),
    SocketOption("TCP_KEEPINTVL", IPPROTO_TCP, 5),
    SocketOption("TCP_KEEPCNT", IPPROTO_TCP, 6),
    SocketOption("IP_PKTINFO", IPPROTO_IP, 8),
    SocketOption("IP_FREEBIND", IPPROTO_IP, 15),
)
"""What CRIU does save of a connection (criu: sockets.c, sk-tcp.c, sk-inet.c), for one that is made without it."""

SAVED_IPV6 = (
    SocketOption("IPV6_V6ONLY", IPPROTO_IPV6, 26),
    SocketOption("IPV6_RECVPKTINFO", IPPROTO_IPV6, 49),
    SocketOption("IPV6_FREEBIND", IPPROTO_IPV6, 78),
)

INERT = frozenset({
    "SO_BROADCAST", "SO_NO_CHECK", "SO_REUSEPORT", "IP_PKTINFO", "IP_RECVTOS", "IP_FREEBIND", "IP_TRANSPARENT",
    "IP_BIND_ADDRESS_NO_PORT", "TCP_SYNCNT", "IPV6_V6ONLY", "IPV6_RECVPKTINFO", "IPV6_RECVTCLASS", "IPV6_FREEBIND",
    "SO_SNDBUF", "SO_RCVBUF", "SO_BUF_LOCK",
})  # fmt: skip
"""Of a connection that is established, these mean nothing any more, or are moved by the kernel and by a hold."""

PODS_OWN = frozenset({"TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"})
"""Of what a pod's sysctls say a fresh socket has (net.ipv4.tcp_keepalive_*): in another pod it may have others."""

LATE = (SEND_BUFFER, RECEIVE_BUFFER, BUFFER_LOCK, REUSE_PORT, PRIORITY)
"""Set in this order after all others: setting a size locks it, and IP_TOS changes the priority."""

WINDOW_CLAMP = SocketOption("TCP_WINDOW_CLAMP", IPPROTO_TCP, 10)
MAXSEG = SocketOption("TCP_MAXSEG", IPPROTO_TCP, 2)
UNCONNECTED = (WINDOW_CLAMP, MAXSEG)
"""Listening, or not connected yet: connections take them over."""
MAX_MAXSEG = 32767
"""More cannot be set (K: MAX_TCP_WINDOW); a connection over loopback that has ended shows more."""
BINDING_SHARE = 3 / 8
"""A smaller part of the receive buffer is not what the kernel gives (1/2 less a segment of 9 kB, of the default)."""


Option = tuple[str, int, int, str]
"""Name, level, number, value in hex."""

Owner = tuple[int, int]
"""The user and the group that a socket belongs to: whoever has made it, or fchown(2)."""


class SocketOptions(msgspec.Struct, frozen=True):
    """What one socket has and CRIU would lose, and where the socket is."""

    pid: int
    fd: int
    options: list[Option]
    owner: Owner | None = None
    """None: CRIU's."""


def lost(found: dict[SocketOption, bytes], fresh: dict[SocketOption, bytes]) -> list[Option]:
    """The options that are not as a fresh socket has them, to be set in this order."""
    differing = [one for one in found if found[one] != fresh.get(one) and one != PRIORITY]
    if MAXSEG in differing and _INT.unpack(found[MAXSEG])[0] > MAX_MAXSEG:
        differing.remove(MAXSEG)
    if differing and PRIORITY in found:
        differing.append(PRIORITY)
    return [(one.name, one.level, one.number, found[one].hex()) for one in differing]


def lost_clamp(clamp: int, receive_buffer: int) -> list[Option]:
    """Of a connection: its window clamp, where that is somebody's wish. Sizes in bytes, as getsockopt(2) gives them."""
    if clamp >= receive_buffer * BINDING_SHARE:
        return []
    return [(WINDOW_CLAMP.name, WINDOW_CLAMP.level, WINDOW_CLAMP.number, _INT.pack(clamp).hex())]
