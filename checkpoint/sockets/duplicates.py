"""The TCP and UDP sockets of a stopped tree: a duplicate of each, by pidfd_getfd(2).

Taken while CRIU dumps, in another thread: the tree stands still, so both see the same sockets.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from socket import SocketType
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from checkpoint.core.descriptors import Place
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.processes.tree import Member, Tree

INO_MASK = 0xFFFFFFFF
"""CRIU's images have 32 bits of a socket's inode (sk-inet.proto)."""


_EPOLL = "anon_inode:[eventpoll]"
_INET = (socket.AF_INET, socket.AF_INET6)


class OpenSocket(msgspec.Struct, frozen=True):
    """A TCP or UDP socket of the tree: the places where it is open, and our duplicate.

    A plain SocketType: a socket.socket takes 5 us more to be made, asked for its family, and closed.
    """

    places: list[Place]
    sock: SocketType


class Numbers(NamedTuple):
    """The numbers of a process's descriptors."""

    above: int
    """The first that is above all."""
    free: int
    """How many below that are free."""


class OpenSockets:
    """Every TCP socket of a tree, by its inode as the images have it, and where else to look. `close` gives the
    duplicates back."""

    def __init__(self, kernel: Kernel, tree: Tree, known: Mapping[int, int] = MappingProxyType({})) -> None:
        """About 8 us a descriptor; blocks. `known`: the address families of TCP connections, by inode."""
        self._known = known
        self.by_ino: dict[int, OpenSocket] = {}
        self.datagrams: dict[int, OpenSocket] = {}
        """The UDP sockets, likewise."""
        self.epolls: list[Place] = []
        self.local: list[Place] = []
        """The unix sockets."""
        self.numbers: dict[int, Numbers] = {}
        """Of each process."""
        try:
            for member in tree.members:
                numbers = list(map(int, procfs.names(f"/proc/{member.pid}/fd")))
                above = 1 + max(numbers, default=-1)
                self.numbers[member.pid] = Numbers(above, above - len(numbers))
                for number in numbers:
                    with suppress(OSError):  # CRIU's own in the process that it is dumping: gone again
                        self._take(kernel, member, number)
        except BaseException:
            self.close()
            raise

    def _take(self, kernel: Kernel, member: Member, number: int) -> None:
        """Duplicated first and looked at then: to read where the descriptor leads would take as long again."""
        mine = kernel.pidfd_getfd(member.pidfd, number)
        ino = kernel.socket_inode(mine) & INO_MASK
        place = member.pid, number
        if known := self.by_ino.get(ino) or self.datagrams.get(ino):
            known.places.append(place)
        elif not ino and procfs.link(f"/proc/self/fd/{mine}") == _EPOLL:
            self.epolls.append(place)
        if known or not ino:
            os.close(mine)
            return
        if (family := self._known.get(ino)) is not None:
            # Nothing is asked of the kernel, then.
            sock = SocketType(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=mine)
            self.by_ino[ino] = OpenSocket([place], sock)
            return
        sock = SocketType(fileno=mine)
        kept = self.by_ino if is_tcp(sock) else self.datagrams if is_udp(sock) else None
        if kept is None:
            if sock.family == socket.AF_UNIX:
                self.local.append(place)
            sock.close()
        else:
            kept[ino] = OpenSocket([place], sock)

    def close(self, but: Container[int] = ()) -> None:
        """All of them, `but` for some inodes."""
        for mine in (self.by_ino, self.datagrams):
            for ino in [ino for ino in mine if ino not in but]:
                mine.pop(ino).sock.close()


def each_shortly(kernel: Kernel, tree: Tree) -> Iterator[tuple[Place, int, SocketType]]:
    """Of a tree that runs: each descriptor of a TCP socket, its inode, and a duplicate, which is closed before the next
    is made. What the workload closes meanwhile ends then, and not when all have been looked at."""
    for member in tree.members:
        for fd, _ in sockets_of(member.pid):
            with suppress(OSError):  # closed meanwhile, or changed as it was looked at
                mine = kernel.pidfd_getfd(member.pidfd, fd)
                sock = SocketType(fileno=mine)
                try:
                    if is_tcp(sock):
                        yield (member.pid, fd), kernel.socket_inode(mine) & INO_MASK, sock
                finally:
                    sock.close()


def epolls_of(tree: Tree) -> Iterator[Place]:
    """The descriptors of a tree's epolls."""
    for member in tree.members:
        folder = f"/proc/{member.pid}/fd"
        for name in procfs.names(folder):
            if procfs.link(f"{folder}/{name}") == _EPOLL:
                yield member.pid, int(name)


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
