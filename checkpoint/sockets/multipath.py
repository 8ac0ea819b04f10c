"""Multipath TCP (RFC 8684), which CRIU cannot save: what takes the place of its sockets in the copy.

A socket that listens for it gives whoever dials by plain TCP a plain connection, which moves as any does; and who asks
for more does without where it is not offered. So in the copy it listens for plain TCP. Servers in Go do listen so,
without having been told to. A connection that both ends speak it over cannot be gone on with: in the copy it is a
socket without a connection.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from socket import SocketType

from checkpoint.core import readdress
from checkpoint.core.descriptors import Unconnected
from checkpoint.kernel import Kernel
from checkpoint.sockets import live, profile

_ACCEPTED_AT, _BACKLOG = 28, struct.Struct("=I")
"""Of struct tcp_info: tcpi_sacked, which of a listener is its backlog (K: tcp.c, tcp_get_info)."""


class LastConnections:
    """Those of a stopped workload that end when it has moved, and not before: it may go on here."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._socks: list[SocketType] = []

    def keep(self, socks: Iterable[SocketType]) -> None:
        """A further duplicate of each."""
        self._socks += [SocketType(fileno=os.dup(sock.fileno())) for sock in socks]

    def cut(self) -> None:
        """The peers see a reset (K: protocol.c, mptcp_disconnect)."""
        for sock in self._socks:
            with suppress(OSError):  # it has ended
                self._kernel.disconnect(sock)
        self.close()

    def close(self) -> None:
        for sock in self._socks:
            sock.close()
        self._socks.clear()


def is_connected(sock: SocketType) -> bool:
    """Or has been, and nobody was told that it is no more."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def listens(sock: SocketType) -> bool:
    return live.state_of(sock) == readdress.LISTEN


def in_place_of(ino: int, sock: SocketType) -> Unconnected:
    """The plain socket that the copy has instead. Raises OSError."""
    six = sock.family == socket.AF_INET6
    ask = sock.getsockopt
    is_listener = listens(sock)
    host, port, *_ = sock.getsockname() if is_listener else ("::" if six else "0.0.0.0", 0)
    return Unconnected(
        ino=ino,
        state=readdress.LISTEN if is_listener else readdress.CLOSE,
        words=readdress.words_of(host, 4 if six else 1),
        port=port,
        backlog=_backlog(sock) if is_listener else 0,
        flags=profile.flags_of(sock),
        send_buffer=ask(socket.SOL_SOCKET, socket.SO_SNDBUF),
        receive_buffer=ask(socket.SOL_SOCKET, socket.SO_RCVBUF),
        reuse_address=ask(socket.SOL_SOCKET, socket.SO_REUSEADDR) != 0,
        reuse_port=ask(socket.SOL_SOCKET, socket.SO_REUSEPORT) != 0,
        six_only=six and ask(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) != 0,
    )


def _backlog(sock: SocketType) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPTED_AT + _BACKLOG.size)
    (found,) = _BACKLOG.unpack_from(info, _ACCEPTED_AT)
    return int(found)
