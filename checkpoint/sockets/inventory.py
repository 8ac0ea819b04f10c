"""What a stopped tree has open: its sockets and its epolls, and where."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from checkpoint.core import readdress
from checkpoint.core.descriptors import Place
from checkpoint.core.openfiles import OpenFile
from checkpoint.processes.openfiles import OpenFiles
from checkpoint.processes.tree import Tree

_LOG = logging.getLogger(__name__)

INO_MASK = 0xFFFFFFFF
"""CRIU's images have 32 bits of a socket's inode (sk-inet.proto)."""

_CIRCLE = 1 << 32
_INET = (socket.AF_INET, socket.AF_INET6)
_TCP = socket.SOCK_STREAM, socket.IPPROTO_TCP
IPPROTO_MPTCP = 262  # linux/in.h
_MULTIPATH = socket.SOCK_STREAM, IPPROTO_MPTCP
_UDP = socket.SOCK_DGRAM, socket.IPPROTO_UDP


class Numbers(NamedTuple):
    """The numbers of a process's descriptors."""

    taken: frozenset[int]
    above: int
    """The first that is above all."""

    @property
    def free(self) -> int:
        """How many below that are free."""
        return self.above - len(self.taken)


class Inventory(msgspec.Struct):
    """Sockets by their inode as the images have it."""

    connections: dict[int, list[Place]] = {}
    """TCP sockets of whatever state."""
    multipath: dict[int, list[Place]] = {}
    """Those of Multipath TCP."""
    datagrams: dict[int, list[Place]] = {}
    """UDP sockets."""
    local: list[Place] = []
    """Unix sockets."""
    epolls: list[Place] = []
    numbers: dict[int, Numbers] = {}
    """Of each process."""
    said: dict[int, OpenFile] = {}
    """What the kernel says of each TCP socket; nothing where it was not asked."""
    closed_on_exec: set[Place] = set()
    """Those TCP sockets that are, likewise."""

    def number(self, pid: int, numbers: Iterable[int]) -> None:
        """These are the descriptors of a process."""
        taken = frozenset(numbers)
        self.numbers[pid] = Numbers(taken, 1 + max(taken, default=-1))

    def places(self, ino: int) -> list[Place]:
        """Of a TCP or UDP socket. Raises KeyError for one that is not known."""
        if (found := self.find(ino)) is None:
            raise KeyError(ino)
        return found

    def find(self, ino: int) -> list[Place] | None:
        """Its places, where it is known."""
        return self.connections.get(ino) or self.multipath.get(ino) or self.datagrams.get(ino)

    @property
    def streams(self) -> set[int]:
        """The inodes of TCP sockets of either kind."""
        return self.connections.keys() | self.multipath.keys()

    @property
    def inodes(self) -> dict[Place, int]:
        """Which of them is open where."""
        return {
            place: ino
            for some in (self.connections, self.multipath)
            for ino, places in some.items()
            for place in places
        }

    def unread(self) -> Iterator[tuple[int, int]]:
        """As the kernel says: the connections that neither end has shut down, of which nobody is to be told anything
        and nothing is urgent, and the bytes that the application has not read of each (tcp(7), SIOCINQ)."""
        for ino, one in self.said.items():
            if one.state == readdress.ESTABLISHED and not (one.shutdown or one.error or one.told or one.urgent):
                yield ino, (one.expected - one.read) % _CIRCLE


def asked(files: OpenFiles, tree: Tree) -> Inventory | None:
    """What the kernel says; None: it cannot be asked. About 2 us a descriptor; blocks."""
    if not files.can_be_asked:
        return None
    try:
        return _asked(files, tree)
    except (OSError, ValueError) as error:
        _LOG.warning("the kernel does not say what is open: %s", error)
        return None


def _asked(files: OpenFiles, tree: Tree) -> Inventory:
    found = Inventory()
    for member in tree.members:
        seen = files.of(member.pidfd)
        found.number(member.pid, (one.number for one in seen))
        for one in seen:
            place = member.pid, one.number
            if not one.family:
                if files.is_epoll(one):
                    found.epolls.append(place)
                continue
            ino = one.ino & INO_MASK
            if is_tcp(one.family, one.type, one.protocol):
                found.connections.setdefault(ino, []).append(place)
                found.said[ino] = one
                if one.closed_on_exec:
                    found.closed_on_exec.add(place)
            elif is_udp(one.family, one.type, one.protocol):
                found.datagrams.setdefault(ino, []).append(place)
            elif is_multipath(one.family, one.type, one.protocol):
                found.multipath.setdefault(ino, []).append(place)
            elif one.family == socket.AF_UNIX:
                found.local.append(place)
    return found


def is_tcp(family: int, kind: int, protocol: int) -> bool:
    return family in _INET and (kind, protocol) == _TCP


def is_multipath(family: int, kind: int, protocol: int) -> bool:
    return family in _INET and (kind, protocol) == _MULTIPATH


def is_udp(family: int, kind: int, protocol: int) -> bool:
    return family in _INET and (kind, protocol) == _UDP
