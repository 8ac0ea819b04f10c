"""Entries of CRIU's images for what CRIU was not shown: connections that stand at the destination already, and the
epolls that watch them (criu: files.c, files-reg.c, eventpoll.c).

CRIU's restore takes an open file from its caller where that has one of the name in its `inherit_fd`, whatever it is. It
asks so for regular files: so in the images such a connection is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from checkpoint.core.descriptors import Epoll, Place, Target
from checkpoint.images.pb import Message, Messages, framed

FIRST_ID = 1 << 30
"""CRIU counts its open files from 1."""


class Descriptor(NamedTuple):
    pid: int
    fd: int
    entry: bytes
    """A fdinfo_entry, with its length."""


class Opened(NamedTuple):
    """An open file, and its descriptors."""

    entry: bytes
    """A file_entry, with its length."""
    descriptors: list[Descriptor]


def key(flow: int) -> str:
    """By which CRIU asks for the copy's end of a pair. It compares with all there are: so they differ at once."""
    return f"{flow:x}.pair"


class Entries:
    """Of one dump."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._targets: dict[Target, bytes] = {}
        """What each becomes in an eventpoll_file_entry: they are many, and mostly known before the freeze."""

    def learn(self, targets: Iterable[Target]) -> None:
        """These will be watched, most likely. About 5 us each."""
        for target in targets:
            self._target(target)

    def inherited(self, number: int, flow: int, places: dict[Place, bool]) -> Opened:
        """The copy's end of a pair. `number` is its own among the open files; `places` say whether each is closed on
        exec."""
        made = self._messages.file(type=self._messages.REG, id=number)
        made.reg.id, made.reg.flags, made.reg.pos, made.reg.name = number, 0, 0, f"/{key(flow)}"
        return self._opened(made, made.reg, places)

    def epoll(self, number: int, one: Epoll, places: dict[Place, bool]) -> Opened:
        made = self._messages.file(type=self._messages.EVENTPOLL, id=number)
        made.epfd.id, made.epfd.flags = number, one.flags
        made.epfd.MergeFromString(b"".join(map(self._target, one.targets)))
        return self._opened(made, made.epfd, places)

    def _target(self, one: Target) -> bytes:
        if one not in self._targets:
            alone = self._messages.file().epfd
            alone.tfd.add(
                id=0, tfd=one.fd, events=one.events, data=one.data, dev=one.device, inode=one.ino, pos=one.position
            )
            self._targets[one] = alone.SerializePartialToString()
        return self._targets[one]

    def _opened(self, made: Message, what: Message, places: dict[Place, bool]) -> Opened:
        nobody, fdinfo = what.fown, self._messages.fdinfo
        nobody.uid = nobody.euid = nobody.signum = nobody.pid_type = nobody.pid = 0
        descriptors = [
            Descriptor(pid, fd, framed(fdinfo(id=made.id, flags=int(closed), type=made.type, fd=fd)))
            for (pid, fd), closed in places.items()
        ]
        return Opened(framed(made), descriptors)
