"""Carry along what CRIU loses of a socket, options and owner: read beside the dump, set on the stopped copy."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from socket import SocketType

from checkpoint.core import sockopts
from checkpoint.core.sockopts import Option, Owner, SocketOption, SocketOptions
from checkpoint.kernel import Kernel
from checkpoint.processes.tree import Tree
from checkpoint.sockets.duplicates import OpenSocket, is_multipath, is_udp
from checkpoint.sockets.live import state_of

FILE = "socket-options.json"
"""A file of ours among the images: a list of `SocketOptions`."""

_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def read(opened: Iterable[OpenSocket]) -> list[SocketOptions]:
    """What these TCP and UDP sockets have that a fresh socket has not; those of Multipath TCP also what CRIU would save
    of others. About 15 us a TCP socket; blocks."""
    usual: dict[tuple[int, _Kind], _Usual] = {
        (family, kind): _Usual(family, kind) for family in _FAMILIES for kind in _Kind
    }
    found: list[SocketOptions] = []
    ours = os.geteuid(), os.getegid()
    for one in opened:
        kind = _Kind.DATAGRAM if is_udp(one.sock) else _KINDS.get(state_of(one.sock), _Kind.CONNECTED)
        if is_multipath(one.sock):
            options = _Usual(one.sock.family, kind, also=sockopts.SAVED).lost_of_some(one.sock)
        else:
            options = usual[one.sock.family, kind].lost(one.sock)
        if kind is _Kind.CONNECTED and not is_multipath(one.sock):
            options += lost_clamp(one.sock)
        owner = owner_of(one.sock)
        if options or owner != ours:
            found.append(SocketOptions(*one.places[0], options, owner if owner != ours else None))
    return found


def owner_of(sock: SocketType) -> Owner:
    """Listeners of one port must be one user's, and packet filters ask for it (K: inet_csk_get_port, xt_owner)."""
    seen = os.fstat(sock.fileno())
    return seen.st_uid, seen.st_gid


def write(kernel: Kernel, tree: Tree, wanted: Iterable[SocketOptions]) -> list[str]:
    """Set them on the copy's sockets; gives in words what could not be set."""
    pidfds = {member.pid: member.pidfd for member in tree.members}
    failed: list[str] = []
    for one in wanted:
        with socket.socket(fileno=kernel.pidfd_getfd(pidfds[one.pid], one.fd)) as sock:
            failed += [f"{what} of descriptor {one.fd} of process {one.pid}: {why}" for what, why in _set(sock, one)]
    return failed


def _set(sock: socket.socket, wanted: SocketOptions) -> Iterator[tuple[str, str]]:
    """What could not be set, and why."""
    for name, level, number, value in wanted.options:
        try:
            sock.setsockopt(level, number, bytes.fromhex(value))
        except OSError as error:
            yield name, error.strerror or str(error)
    if wanted.owner is not None:
        try:
            os.fchown(sock.fileno(), *wanted.owner)
        except OSError as error:
            yield "the owner", error.strerror or str(error)


class _Kind(Enum):
    CONNECTED = "connected"
    LISTENING = "listening"
    NEITHER = "neither"
    DATAGRAM = "datagram"


_KINDS = {7: _Kind.NEITHER, 10: _Kind.LISTENING}
"""By the state (linux/tcp_states.h: TCP_CLOSE, TCP_LISTEN)."""


def lost_clamp(sock: SocketType) -> list[Option]:
    """Of a connection: see `sockopts.lost_clamp`."""
    clamp = sock.getsockopt(sockopts.WINDOW_CLAMP.level, sockopts.WINDOW_CLAMP.number)
    return sockopts.lost_clamp(clamp, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))


class _Usual:
    """A fresh socket of a kind: its options, as far as this kernel knows them, and their values."""

    def __init__(self, family: int, kind: _Kind, also: Sequence[SocketOption] = ()) -> None:
        wanted = [*also, *sockopts.EVERY]
        wanted += sockopts.IPV6 if family == socket.AF_INET6 else ()
        if kind is _Kind.DATAGRAM:
            wanted += sockopts.DATAGRAM
            wanted += sockopts.DATAGRAM_IPV6 if family == socket.AF_INET6 else ()
        else:
            wanted += sockopts.STREAM
            wanted += sockopts.LISTENING if kind is _Kind.LISTENING else ()
            wanted += sockopts.UNCONNECTED if kind is not _Kind.CONNECTED else ()
        self._fresh: dict[SocketOption, bytes] = {}
        with socket.socket(family, socket.SOCK_DGRAM if kind is _Kind.DATAGRAM else socket.SOCK_STREAM) as sock:
            for one in wanted:
                with suppress(OSError):
                    self._fresh[one] = sock.getsockopt(one.level, one.number, one.length)
        self._asked = [(one.level, one.number, one.length) for one in self._fresh]
        self._values = list(self._fresh.values())

    def lost(self, sock: SocketType) -> list[Option]:
        """See `sockopts.lost`. Most sockets have nothing, and a list of values is compared at once."""
        ask = sock.getsockopt
        values = [ask(level, number, length) for level, number, length in self._asked]
        if values == self._values:
            return []
        return self._lost(sock, dict(zip(self._fresh, values, strict=True)))

    def lost_of_some(self, sock: SocketType) -> list[Option]:
        """The same, of a socket that has not all of these options."""
        found: dict[SocketOption, bytes] = {}
        for one in self._fresh:
            with suppress(OSError):
                found[one] = sock.getsockopt(one.level, one.number, one.length)
        return self._lost(sock, found)

    def _lost(self, sock: SocketType, found: dict[SocketOption, bytes]) -> list[Option]:
        one = sockopts.PRIORITY
        return sockopts.lost(found | {one: sock.getsockopt(one.level, one.number, one.length)}, self._fresh)
