"""Carry along the socket options that CRIU loses: read at the source beside the dump, set on the stopped copy."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress

from checkpoint import procfs
from checkpoint.core import sockopts
from checkpoint.core.sockopts import SocketOption, SocketOptions
from checkpoint.kernel import Kernel
from checkpoint.tree import Tree

FILE = "socket-options.json"
"""A file of ours among the images: a list of `SocketOptions`."""


def read(kernel: Kernel, tree: Tree) -> list[SocketOptions]:
    """What the TCP sockets of a stopped tree have that a fresh socket has not. About 20 us a socket; blocks."""
    fresh = {family: _fresh(family) for family in (socket.AF_INET, socket.AF_INET6)}
    found: list[SocketOptions] = []
    for pid, fd, duplicate in _duplicates(kernel, tree):
        with duplicate as sock:
            if sock.family in fresh and sock.type == socket.SOCK_STREAM and sock.proto == socket.IPPROTO_TCP:
                listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                options = sockopts.lost(_values(sock, listens=listens), fresh[sock.family])
                if options:
                    found.append(SocketOptions(pid, fd, options))
    return found


def write(kernel: Kernel, tree: Tree, wanted: Iterable[SocketOptions]) -> list[str]:
    """Set them on the copy's sockets; gives in words what could not be set."""
    pidfds = {member.pid: member.pidfd for member in tree.members}
    failed: list[str] = []
    for one in wanted:
        with socket.socket(fileno=kernel.pidfd_getfd(pidfds[one.pid], one.fd)) as sock:
            for name, level, number, value in one.options:
                try:
                    sock.setsockopt(level, number, bytes.fromhex(value))
                except OSError as error:
                    failed.append(f"{name} of descriptor {one.fd} of process {one.pid}: {error.strerror}")
    return failed


def _duplicates(kernel: Kernel, tree: Tree) -> Iterator[tuple[int, int, socket.socket]]:
    """Each socket of the tree once. The caller closes it."""
    seen: set[str] = set()
    for member in tree.members:
        for name in procfs.names(f"/proc/{member.pid}/fd"):
            target = procfs.link(f"/proc/{member.pid}/fd/{name}")
            if target.startswith("socket:[") and target not in seen:
                seen.add(target)
                with suppress(OSError):  # CRIU's own in the process that it is dumping: gone again
                    yield member.pid, int(name), socket.socket(fileno=kernel.pidfd_getfd(member.pidfd, int(name)))


def _fresh(family: int) -> dict[SocketOption, bytes]:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        return _values(sock, listens=True)


def _values(sock: socket.socket, *, listens: bool) -> dict[SocketOption, bytes]:
    wanted = [*sockopts.EVERY, sockopts.PRIORITY]
    wanted += sockopts.LISTENING if listens else ()
    wanted += sockopts.IPV6 if sock.family == socket.AF_INET6 else ()
    found = {}
    for one in wanted:
        with suppress(OSError):  # an older kernel does not know it
            found[one] = sock.getsockopt(one.level, one.number, one.length)
    return found
