"""Answers CRIU's questions which pages a process has: "none", of the areas that it is to be spared; all others the
kernel answers. CRIU asks by ioctl(2), and stands still in it meanwhile (seccomp_unotify(2), `checkpoint.memory.shade`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from checkpoint.core.areas import Area
from checkpoint.memory import scan

_RECEIVE = 0xC0502100  # _IOWR('!', 0, struct seccomp_notif), linux/seccomp.h
_SEND = 0xC0182101
_QUESTION = struct.Struct("<QIIiIQ6Q")
_ANSWER = struct.Struct("<QqiI")
_CONTINUE = 1


class Question(NamedTuple):
    """struct seccomp_notif of an ioctl: `asker` is a PID, `fd` one of its descriptors, `address` in its memory."""

    number: int
    asker: int
    fd: int
    address: int


Find = Callable[[int, int, int], Area | None]
"""The area to be spared in which a scan of this PID, from here to there, lies."""


def answer(listener: int, find: Find) -> None:
    """Answer one question after the other until nobody is left who could ask. Raises OSError."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        [(_, happened)] = poll.poll()
        if not happened & select.POLLIN:
            return
        question = _next(listener)
        if question is not None:
            _answer(listener, question.number, spared=_spare(question, find))


def _next(listener: int) -> Question | None:
    """None where the asker was killed in between."""
    raw = bytearray(_QUESTION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, raw)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    number, asker, _, _, _, _, fd, _, address, *_ = _QUESTION.unpack(raw)
    return Question(number, asker, fd & 0xFFFFFFFF, address)


def _answer(listener: int, number: int, *, spared: bool) -> None:
    try:
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(number, 0, 0, 0 if spared else _CONTINUE))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _spare(question: Question, find: Find) -> bool:
    """Whether the question is about an area to be spared; then the asker's argument says that it was walked through."""
    try:
        scanned = _scanned(str(Path(f"/proc/{question.asker}/fd/{question.fd}").readlink()))
        memory = os.open(f"/proc/{question.asker}/mem", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        asked = scan.decode(os.pread(memory, scan.ARGUMENT_BYTES, question.address))
        if not asked.asks_what_is_there or find(scanned, asked.start, asked.end) is None:
            return False
        os.pwrite(memory, struct.pack("<Q", asked.end), question.address + scan.WALK_END_AT)
        return True
    except (OSError, struct.error):
        return False
    finally:
        os.close(memory)


def _scanned(path: str) -> int:
    """Whose page map it is: /proc/<pid>/pagemap, whatever /proc is called there; 0: nobody's that we know."""
    *_, pid, name = path.rsplit("/", 2)
    return int(pid) if name == "pagemap" and pid.isdecimal() else 0
