"""Entries of CRIU's images for what CRIU was not shown: the epolls that watch connections which stand at the
destination already, the door through which those come, and plain sockets in place of such as it cannot save (criu:
files.c, files-reg.c, eventpoll.c, sk-inet.c).

CRIU's restore takes an open file from its caller where that has one of the name in its `inherit_fd`, whatever it is. It
asks so for regular files: so in the images the door is one.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import NamedTuple

from checkpoint.core import flows
from checkpoint.core.descriptors import Epoll, Place, Target, Unconnected
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

    entry: Message
    """A file_entry."""
    descriptors: list[Descriptor]


DOOR = "midstream.door"
"""By which CRIU asks for it."""


class Entries:
    """Of one dump."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def door(self, number: int, places: Iterable[Place]) -> Opened:
        """`number` is its own among the open files."""
        made = self._messages.file(type=self._messages.REG, id=number)
        made.reg.id, made.reg.flags, made.reg.pos, made.reg.name = number, 0, 0, f"/{DOOR}"
        return self._opened(made, made.reg, dict.fromkeys(places, True))

    def epoll(self, number: int, one: Epoll, targets: Iterable[Target], places: dict[Place, bool]) -> Opened:
        """With these of its targets. `places` say whether each is closed on exec."""
        made = self._messages.file(type=self._messages.EVENTPOLL, id=number)
        made.epfd.id, made.epfd.flags = number, one.flags
        for it in targets:
            made.epfd.tfd.add(
                id=0, tfd=it.fd, events=it.events, data=it.data, dev=it.device, inode=it.ino, pos=it.position
            )
        return self._opened(made, made.epfd, places)

    def socket(self, number: int, one: Unconnected, places: dict[Place, bool]) -> Opened:
        made = self._messages.file(type=self._messages.INETSK, id=number)
        entry, options = made.isk, made.isk.opts
        entry.id, entry.ino, entry.state = number, one.ino, one.state
        entry.flags, entry.backlog = one.flags, one.backlog
        entry.family = socket.AF_INET6 if len(one.words) > 1 else socket.AF_INET
        entry.type, entry.proto = flows.SOCK_STREAM, flows.IPPROTO_TCP
        entry.src_port, entry.dst_port = one.port, 0
        entry.src_addr[:], entry.dst_addr[:] = one.words, [0] * len(one.words)
        entry.v6only = one.six_only
        options.so_sndbuf, options.so_rcvbuf = one.send_buffer, one.receive_buffer
        options.so_snd_tmo_sec = options.so_snd_tmo_usec = options.so_rcv_tmo_sec = options.so_rcv_tmo_usec = 0
        options.reuseaddr, options.so_reuseport = one.reuse_address, one.reuse_port
        return self._opened(made, entry, places)

    def _opened(self, made: Message, what: Message, places: dict[Place, bool]) -> Opened:
        nobody, fdinfo = what.fown, self._messages.fdinfo
        nobody.uid = nobody.euid = nobody.signum = nobody.pid_type = nobody.pid = 0
        descriptors = [
            Descriptor(pid, fd, framed(fdinfo(id=made.id, flags=int(closed), type=made.type, fd=fd)))
            for (pid, fd), closed in places.items()
        ]
        return Opened(made, descriptors)
