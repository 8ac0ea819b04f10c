"""Make a connection's end by TCP_REPAIR, the other end of which is an app leg: established, and not a packet is sent.

The order of the calls is the kernel's demand (K: net/ipv4/tcp.c, do_tcp_setsockopt): sequence numbers only while the
socket is closed, what the handshake would have agreed on only once it is established.
"""

from __future__ import annotations

import os
import socket
import struct

from checkpoint.api import Socket
from checkpoint.core import sockopts
from checkpoint.kernel import Kernel
from checkpoint.sockets import profile
from checkpoint.sockets.legs import LegNumbers

_TCP = socket.IPPROTO_TCP
_REPAIR_QUEUE, _QUEUE_SEQ, _REPAIR_OPTIONS, _TIMESTAMP, _REPAIR_WINDOW = 20, 21, 22, 24, 29  # linux/tcp.h
_RECEIVE_QUEUE, _SEND_QUEUE = 1, 2
_MSS, _WSCALE, _SACK, _STAMPS = 2, 3, 4, 8  # the kinds of TCP's options (RFC 9293, RFC 7323, RFC 2018)
_WORD, _PAIR, _WINDOW = struct.Struct("=I"), struct.Struct("=II"), struct.Struct("=5I")
_CIRCLE = 1 << 32
_AGAIN = frozenset(one.name for one in sockopts.LATE)
"""The sizes of buffers that nobody has locked are the kernel's to move, as it does when a connection is established."""


def make(kernel: Kernel, wanted: Socket, leg: LegNumbers) -> socket.socket:
    """The end that the copy will have of the connection whose other end has these numbers. Raises OSError.

    It is in repair mode: were we killed, it would go without a word, and its two ends were free again. A listener of
    the copy's can have its port (K: SK_FORCE_REUSE, inet_bind_conflict).
    """
    sock = socket.socket(socket.AddressFamily(wanted.family), socket.SOCK_STREAM)
    try:
        profile.write(sock, [one for one in wanted.options if one[0] != sockopts.REUSE_PORT.name])
        kernel.enter_repair(sock)
        _establish(sock, wanted.family, leg)
        profile.write(sock, [one for one in wanted.options if one[0] in _AGAIN])
        profile.set_flags(sock, wanted.flags)
        os.fchown(sock.fileno(), *wanted.owner)
    except BaseException:
        discard(kernel, sock)
        raise
    return sock


def finish(kernel: Kernel, sock: socket.socket, *, reuse_address: bool) -> None:
    """Make it an ordinary one, with SO_REUSEADDR as the workload has it."""
    kernel.leave_repair(sock)  # which forgets that
    if reuse_address:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def discard(kernel: Kernel, sock: socket.socket) -> None:
    """End one without a word, wherever it is open: its other end goes likewise. Raises OSError."""
    try:
        kernel.enter_repair(sock)  # which it is in, if it was not finished
        kernel.disconnect(sock)
    finally:
        sock.close()


def _establish(sock: socket.socket, family: int, leg: LegNumbers) -> None:
    """As a mirror of the leg: what one sends the other receives."""
    sock.setsockopt(_TCP, _REPAIR_QUEUE, _SEND_QUEUE)
    sock.setsockopt(_TCP, _QUEUE_SEQ, _WORD.pack(leg.rcv_seq))
    sock.setsockopt(_TCP, _REPAIR_QUEUE, _RECEIVE_QUEUE)
    sock.setsockopt(_TCP, _QUEUE_SEQ, _WORD.pack(leg.snd_seq))
    sock.bind(_address(leg.app, family))
    sock.connect(_address(leg.peer, family))
    agreed = ((_MSS, leg.mss), (_SACK, 0), (_WSCALE, leg.rcv_wscale | leg.snd_wscale << 16), (_STAMPS, 0))
    sock.setsockopt(_TCP, _REPAIR_OPTIONS, b"".join(_PAIR.pack(*each) for each in agreed))
    sock.setsockopt(_TCP, _TIMESTAMP, os.urandom(_WORD.size))
    window = _WINDOW.pack((leg.snd_seq - 1) % _CIRCLE, leg.rcv_wnd, leg.rcv_wnd, leg.snd_wnd, leg.snd_seq)
    sock.setsockopt(_TCP, _REPAIR_WINDOW, window)


def _address(end: tuple[str, int], family: int) -> tuple[str, int]:
    host, port = end
    return (f"::ffff:{host}" if family == socket.AF_INET6 and ":" not in host else host), port
