"""In which states the kernel has the two ends of a connection that is inside the pod, by sock_diag(7)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from proxy.core.ledger import TcpState
from proxy.sys import nftables
from proxy.sys.netlink import NLM_F_ACK, Message, Netlink

_BY_FAMILY, _DESTROY = 20, 21  # SOCK_DIAG_BY_FAMILY and SOCK_DESTROY, include/uapi/linux/sock_diag.h
_REQUEST = struct.Struct("=BBxxI")  # struct inet_diag_req_v2 until its struct inet_diag_sockid
_ADDRESS = struct.Struct("=16s")
_ANY = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface; INET_DIAG_NOCOOKIE
_STATE_AT, _ID = 1, slice(4, 52)  # in struct inet_diag_msg, whose first byte is the family
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


def abort(netlink: Netlink, keys: Sequence[bytes]) -> int:
    """End the workload's end of each: it reads an error (ECONNABORTED). Gives how many there were. Raises OSError.

    By the cookie that the kernel has given it: else, had it ended meanwhile, its listener would be meant.
    """
    found = chain.from_iterable(
        netlink.ask([_question(*nftables.ends_of(key)) for key in keys[start : start + MAX_KEYS_AT_ONCE]])
        for start in range(0, len(keys), MAX_KEYS_AT_ONCE)
    )
    alive = [answer for answer in found if _state(answer) not in (None, TcpState.CLOSE, TcpState.TIME_WAIT)]
    for answer in alive:
        body = _REQUEST.pack(answer[0], socket.IPPROTO_TCP, _ALL) + answer[_ID]
        with contextlib.suppress(FileNotFoundError):
            netlink.send([Message(_DESTROY, NLM_F_ACK, body)])
    return len(alive)


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
