"""What sock_diag(7) alone tells of sockets: who signs its TCP segments, and which unix socket is connected to which.

There is no getsockopt for either. The kernel shows the keys' presence to whoever has CAP_NET_ADMIN (K: tcp_diag.c,
tcp_diag_get_aux), and to nobody where it was built without CONFIG_TCP_MD5SIG.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY, _NLMSG_ERROR, _NLMSG_DONE = 20, 2, 3
_NLM_F_REQUEST_DUMP = 0x301
_WITH_INFO = 1 << 2 - 1  # INET_DIAG_INFO: the keys are told of with it only (K: inet_diag.c, inet_sk_diag_fill)
_INET_DIAG_MD5SIG = 18  # linux/inet_diag.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2
_MESSAGE_BYTES, _INODE_AT = 72, 68  # struct inet_diag_msg
_UNIX_REQUEST = struct.Struct("=BBxxIIIxxxxxxxx")  # struct unix_diag_req
_UNIX_MESSAGE_BYTES, _UNIX_INODE_AT = 16, 4  # struct unix_diag_msg
_WITH_PEER, _UNIX_DIAG_PEER = 4, 2  # UDIAG_SHOW_PEER; linux/unix_diag.h
_EVERY_STATE = 0xFFFFFFFF
_ATTRIBUTE = struct.Struct("=HH")
_READ_BYTES = 1 << 17


def signing() -> set[int]:
    """The inodes of this network namespace's TCP sockets that have MD5 keys (RFC 2385). Raises OSError."""
    found: set[int] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in _ask(_REQUEST.pack(family, socket.IPPROTO_TCP, _WITH_INFO, _EVERY_STATE)):
            if _INET_DIAG_MD5SIG in attributes(message[_MESSAGE_BYTES:]):
                found |= set(struct.unpack_from("=I", message, _INODE_AT))
    return found


def partners() -> dict[int, int]:
    """Of each connected unix socket of this network namespace, by its inode, the other's; 0 where nobody has accepted
    that yet. Raises OSError."""
    found: dict[int, int] = {}
    for message in _ask(_UNIX_REQUEST.pack(socket.AF_UNIX, 0, _EVERY_STATE, 0, _WITH_PEER)):
        peer = attributes(message[_UNIX_MESSAGE_BYTES:]).get(_UNIX_DIAG_PEER)
        if peer is not None:
            (inode,) = struct.unpack_from("=I", message, _UNIX_INODE_AT)
            (found[inode],) = struct.unpack("=I", peer)
    return found


def _ask(body: bytes) -> Iterator[bytes]:
    """The messages of the answer, without their headers. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0) + body)
        while True:
            raw, at = netlink.recv(_READ_BYTES), 0
            while at < len(raw):
                length, kind, *_ = _HEADER.unpack_from(raw, at)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                yield raw[at + _HEADER.size : at + length]
                at += length + 3 & ~3


def attributes(raw: bytes) -> dict[int, bytes]:
    """A message's attributes by their kinds (netlink(7), struct nlattr)."""
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        found[kind] = raw[at + _ATTRIBUTE.size : at + length]
        at += max(length, _ATTRIBUTE.size) + 3 & ~3
    return found
