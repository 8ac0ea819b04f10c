"""The TCP and UDP sockets of a stopped tree: a duplicate of each, by pidfd_getfd(2).

Taken while CRIU dumps, in another thread: the tree stands still, so both see the same sockets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from socket import SocketType

import msgspec

from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.processes.tree import Member, Tree

_INO_MASK = 0xFFFFFFFF
"""CRIU's images have 32 bits of a socket's inode (sk-inet.proto)."""


_INET = (socket.AF_INET, socket.AF_INET6)


class OpenSocket(msgspec.Struct, frozen=True):
    """A TCP or UDP socket of the tree: one of the places where it is open, and our duplicate.

    A plain SocketType: a socket.socket takes 5 us more to be made, asked for its family, and closed.
    """

    pid: int
    fd: int
    sock: SocketType


class OpenSockets:
    """Every TCP socket of a tree, by its inode as the images have it. `close` gives the duplicates back."""

    def __init__(self, kernel: Kernel, tree: Tree) -> None:
        """About 10 us a socket; blocks."""
        self.by_ino: dict[int, OpenSocket] = {}
        self.datagrams: dict[int, OpenSocket] = {}
        """The UDP sockets, likewise."""
        try:
            for member in tree.members:
                for fd, ino in sockets_of(member.pid):
                    if ino & _INO_MASK not in self.by_ino and ino & _INO_MASK not in self.datagrams:
                        self._take(kernel, member, fd, ino)
        except BaseException:
            self.close()
            raise

    def _take(self, kernel: Kernel, member: Member, fd: int, ino: int) -> None:
        with suppress(OSError):  # CRIU's own in the process that it is dumping: gone again
            sock = SocketType(fileno=kernel.pidfd_getfd(member.pidfd, fd))
            mine = self.by_ino if is_tcp(sock) else self.datagrams if is_udp(sock) else None
            if mine is not None and kernel.inode(sock.fileno()) == ino:
                mine[ino & _INO_MASK] = OpenSocket(member.pid, fd, sock)
            else:
                sock.close()

    def close(self) -> None:
        for mine in (self.by_ino, self.datagrams):
            for one in mine.values():
                one.sock.close()
            mine.clear()


def is_tcp(sock: SocketType) -> bool:
    return sock.proto == socket.IPPROTO_TCP and sock.type == socket.SOCK_STREAM and sock.family in _INET


def is_udp(sock: SocketType) -> bool:
    return sock.proto == socket.IPPROTO_UDP and sock.type == socket.SOCK_DGRAM and sock.family in _INET


def sockets_of(pid: int) -> Iterator[tuple[int, int]]:
    """(descriptor, inode) of each socket of whatever kind that a process has open; nothing when it is gone."""
    for name in procfs.names(f"/proc/{pid}/fd"):
        target = procfs.link(f"/proc/{pid}/fd/{name}")
        if target.startswith("socket:["):
            yield int(name), int(target[8:-1])
