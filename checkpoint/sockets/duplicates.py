"""The TCP and UDP sockets of a stopped tree: a duplicate of each, by pidfd_getfd(2).

Taken while CRIU dumps, in another thread: the tree stands still, so both see the same sockets.
"""

from __future__ import annotations

import os
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
        """About 8 us a descriptor; blocks."""
        self.by_ino: dict[int, OpenSocket] = {}
        self.datagrams: dict[int, OpenSocket] = {}
        """The UDP sockets, likewise."""
        try:
            for member in tree.members:
                for name in procfs.names(f"/proc/{member.pid}/fd"):
                    with suppress(OSError):  # CRIU's own in the process that it is dumping: gone again
                        self._take(kernel, member, int(name))
        except BaseException:
            self.close()
            raise

    def _take(self, kernel: Kernel, member: Member, number: int) -> None:
        """Duplicated first and looked at then: to read where the descriptor leads would take as long again."""
        mine = kernel.pidfd_getfd(member.pidfd, number)
        ino = kernel.socket_inode(mine) & _INO_MASK
        if not ino or ino in self.by_ino or ino in self.datagrams:
            os.close(mine)
            return
        sock = SocketType(fileno=mine)
        kept = self.by_ino if is_tcp(sock) else self.datagrams if is_udp(sock) else None
        if kept is None:
            sock.close()
        else:
            kept[ino] = OpenSocket(member.pid, number, sock)

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
