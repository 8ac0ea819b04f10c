"""In which states the kernel has the two ends of a connection that is inside the pod, by sock_diag(7)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from proxy.core.ledger import TcpState
from proxy.sys import nftables
from proxy.sys.netlink import Message, Netlink

_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY, include/uapi/linux/sock_diag.h
_REQUEST = struct.Struct("=BBxxI")  # struct inet_diag_req_v2 until its struct inet_diag_sockid
_ADDRESS = struct.Struct("=16s")
_ANY = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface; INET_DIAG_NOCOOKIE
_STATE_AT = 1  # in struct inet_diag_msg
_ALL = 0xFFFFFFFF
MAX_KEYS_AT_ONCE = 256


class Ends(NamedTuple):
    """None: the kernel has no such socket (a listener does not count)."""

    app: TcpState | None
    peer: TcpState | None


def ends(netlink: Netlink, keys: Sequence[bytes]) -> Iterator[Ends]:
    """Of each connection (`nftables.flow_key`), in order. Raises OSError."""
    for start in range(0, len(keys), MAX_KEYS_AT_ONCE):
        some = keys[start : start + MAX_KEYS_AT_ONCE]
        answers = iter(netlink.ask([question for key in some for question in _questions(key)]))
        for app, peer in zip(answers, answers, strict=True):
            yield Ends(_state(app), _state(peer))


def _questions(key: bytes) -> tuple[Message, Message]:
    app, peer = nftables.ends_of(key)
    return _question(app, peer), _question(peer, app)


def _question(own: nftables.End, other: nftables.End) -> Message:
    family = socket.AF_INET if len(own.host) == 4 else socket.AF_INET6
    head = _REQUEST.pack(family, socket.IPPROTO_TCP, _ALL)
    return Message(
        _BY_FAMILY, 0, head + own.port + other.port + _ADDRESS.pack(own.host) + _ADDRESS.pack(other.host) + _ANY
    )


def _state(answer: bytes) -> TcpState | None:
    if not answer:
        return None
    state = TcpState(answer[_STATE_AT])
    return None if state is TcpState.LISTEN else state
