"""The TCP and UDP sockets of a stopped tree: a duplicate of each, by pidfd_getfd(2).

The tree stands still: so they can be taken while CRIU dumps, in another thread, and both see the same sockets.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from socket import SocketType
from types import MappingProxyType

import msgspec

from checkpoint.core.descriptors import Place
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.processes.tree import Member, Tree
from checkpoint.sockets import inventory
from checkpoint.sockets.inventory import INO_MASK, Inventory

_EPOLL = "anon_inode:[eventpoll]"


class OpenSocket(msgspec.Struct, frozen=True):
    """A TCP or UDP socket of the tree: the places where it is open, and our duplicate.

    A plain SocketType: a socket.socket takes 5 us more to be made, asked for its family, and closed.
    """

    places: list[Place]
    sock: SocketType


class OpenSockets:
    """The TCP and UDP sockets of a tree, each duplicated when it is asked for first. `close` gives the duplicates
    back."""

    def __init__(self, kernel: Kernel, tree: Tree, known: Inventory) -> None:
        """`tree` must be held for as long as it is asked."""
        self._kernel, self._known = kernel, known
        self._pidfds = {member.pid: member.pidfd for member in tree.members}
        self._by_ino: dict[int, OpenSocket] = {}

    def of(self, ino: int) -> OpenSocket:
        """By its inode as the images have it. About 3 us. Raises KeyError for one that is not known, and OSError."""
        if (found := self._by_ino.get(ino)) is None:
            places = self._known.places(ino)
            pid, number = places[0]
            mine = self._kernel.pidfd_getfd(self._pidfds[pid], number)
            said = self._known.said.get(ino)
            if said is None:
                sock = SocketType(fileno=mine)
            else:  # nothing is asked of the kernel, then
                sock = SocketType(said.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=mine)
            found = self._by_ino[ino] = OpenSocket(places, sock)
        return found

    def have(self, ino: int, sock: SocketType) -> None:
        """This is the duplicate of one that is known."""
        self._by_ino[ino] = OpenSocket(self._known.places(ino), sock)

    def close(self, but: Container[int] = ()) -> None:
        """All of them, `but` for some inodes."""
        for ino in [ino for ino in self._by_ino if ino not in but]:
            self._by_ino.pop(ino).sock.close()


def looked_for(
    kernel: Kernel, tree: Tree, families: Mapping[int, int] = MappingProxyType({})
) -> tuple[Inventory, OpenSockets]:
    """What there is, where the kernel is not asked for it: each descriptor is duplicated. About 8 us each; blocks.
    `families` are those of TCP connections, by inode, as far as they are known. Raises OSError."""
    looking = _Looking(kernel, tree, families)
    try:
        for member in tree.members:
            looking.look(member)
    except BaseException:
        looking.sockets.close()
        raise
    return looking.found, looking.sockets


class _Looking:
    def __init__(self, kernel: Kernel, tree: Tree, families: Mapping[int, int]) -> None:
        self._kernel, self._families = kernel, families
        self.found = Inventory()
        self.sockets = OpenSockets(kernel, tree, self.found)

    def look(self, member: Member) -> None:
        numbers = list(map(int, procfs.names(f"/proc/{member.pid}/fd")))
        self.found.number(member.pid, numbers)
        for number in numbers:
            with suppress(OSError):  # CRIU's own in the process that it is dumping: gone again
                self._take(member, number)

    def _take(self, member: Member, number: int) -> None:
        """Duplicated first and looked at then: to read where the descriptor leads would take as long again."""
        found = self.found
        mine = self._kernel.pidfd_getfd(member.pidfd, number)
        ino = self._kernel.socket_inode(mine) & INO_MASK
        place = member.pid, number
        if places := found.find(ino):
            places.append(place)
        elif not ino and procfs.link(f"/proc/self/fd/{mine}") == _EPOLL:
            found.epolls.append(place)
        if places or not ino:
            os.close(mine)
            return
        if (family := self._families.get(ino)) is not None:
            # Nothing is asked of the kernel, then.
            sock = SocketType(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=mine)
            self._keep(found.connections, ino, place, sock)
            return
        sock = SocketType(fileno=mine)
        if is_tcp(sock):
            self._keep(found.connections, ino, place, sock)
        elif is_multipath(sock):
            self._keep(found.multipath, ino, place, sock)
        elif is_udp(sock):
            self._keep(found.datagrams, ino, place, sock)
        else:
            if sock.family == socket.AF_UNIX:
                found.local.append(place)
            sock.close()

    def _keep(self, places: dict[int, list[Place]], ino: int, place: Place, sock: SocketType) -> None:
        places[ino] = [place]
        self.sockets.have(ino, sock)


def each_shortly(
    kernel: Kernel, tree: Tree, wanted: Callable[[SocketType], bool]
) -> Iterator[tuple[Place, int, SocketType]]:
    """Of a tree that runs: each descriptor of such a socket, its inode, and a duplicate, which is closed before the
    next is made. What the workload closes meanwhile ends then, and not when all have been looked at."""
    for member in tree.members:
        for fd, _ in sockets_of(member.pid):
            with suppress(OSError):  # closed meanwhile, or changed as it was looked at
                mine = kernel.pidfd_getfd(member.pidfd, fd)
                sock = SocketType(fileno=mine)
                try:
                    if wanted(sock):
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
    return inventory.is_tcp(sock.family, sock.type, sock.proto)


def is_multipath(sock: SocketType) -> bool:
    return inventory.is_multipath(sock.family, sock.type, sock.proto)


def is_udp(sock: SocketType) -> bool:
    return inventory.is_udp(sock.family, sock.type, sock.proto)


def sockets_of(pid: int) -> Iterator[tuple[int, int]]:
    """(descriptor, inode) of each socket of whatever kind that a process has open; nothing when it is gone."""
    for name in procfs.names(f"/proc/{pid}/fd"):
        target = procfs.link(f"/proc/{pid}/fd/{name}")
        if target.startswith("socket:["):
            yield int(name), int(target[8:-1])
