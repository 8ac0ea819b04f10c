"""A TCP socket of the stopped workload as CRIU's images will have it, asked of the socket itself."""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from collections.abc import Iterable, Iterator, Mapping
from socket import SocketType
from typing import Any

from checkpoint.core import flows, readdress

_NOBODY: tuple[str, int] = ("", 0)
_WORDS: dict[int, int] = {socket.AF_INET: 1, socket.AF_INET6: 4}


def state_of(sock: SocketType) -> int:
    """Its TCP state (linux/tcp_states.h), the first byte of TCP_INFO."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def happened(socks: Iterable[SocketType]) -> dict[int, int]:
    """What poll(2) says of each, by its descriptor, where it says anything: that something can be read, and that it has
    ended, but for what the application itself has shut down of its sending. 0.5 us each."""
    poll = select.poll()
    for sock in socks:
        poll.register(sock.fileno(), select.POLLIN | select.POLLPRI | select.POLLRDHUP)
    return dict(poll.poll(0))


def unread(connections: Mapping[int, SocketType]) -> Iterator[tuple[int, int]]:
    """Those among these, by inode, that neither end has shut down, of which nobody is to be told anything and nothing
    is urgent, and the bytes that the application has not read of each (tcp(7), SIOCINQ). 3 us each."""
    seen = happened(connections.values())
    for ino, sock in connections.items():
        events = seen.get(sock.fileno(), 0)
        # What the application itself has shut down of its receiving only this says, of its sending only the state.
        if events & ~select.POLLIN or state_of(sock) != readdress.ESTABLISHED:
            continue
        much = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)) if events else b""
        yield ino, int.from_bytes(much, sys.byteorder)


def describe(ino: int, sock: SocketType) -> flows.InetSocket:
    """The listener's or connection's part of files.img, its backlog excepted. Takes about 4 us."""
    local, peer = sock.getsockname(), _peer(sock)
    count = _WORDS[sock.family]
    return flows.InetSocket(
        ino=ino,
        type=flows.SOCK_STREAM,
        proto=flows.IPPROTO_TCP,
        state=state_of(sock),
        source=_words(local[0], count),
        source_port=local[1],
        destination=_words(peer[0], count),
        destination_port=peer[1],
        backlog=0,
        reuse_address=sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) != 0,
    )


def _peer(sock: SocketType) -> tuple[Any, ...]:
    try:
        return tuple(sock.getpeername())
    except OSError:  # it has none, or none any more
        return _NOBODY


def _words(host: str, count: int) -> tuple[int, ...]:
    return readdress.words_of(host, count) if host else (0,) * count
