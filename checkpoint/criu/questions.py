"""What CRIU asks the kernel of a stopped process, and somebody else answers: which descriptors it has, of those that
CRIU is to see; and whether it may begin. CRIU stands still in its system call meanwhile (seccomp_unotify(2),
`checkpoint.criu.shade`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import select
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from checkpoint.criu import shade
from checkpoint.kernel import Kernel

_RECEIVE = 0xC0502100  # _IOWR('!', 0, struct seccomp_notif), linux/seccomp.h
_SEND = 0xC0182101
_ADD_FD = 0x40182103  # _IOW('!', 3, struct seccomp_notif_addfd), Linux 5.9
_ADDED = struct.Struct("<QIIII")
*_, _OPENAT, _PTRACE = shade.NUMBERS.get(platform.machine(), (None, None))
_NAME_BYTES = 16
_QUESTION = struct.Struct("<QIIiIQ6Q")
_ANSWER = struct.Struct("<QqiI")
_CONTINUE = 1
_DIRENT = struct.Struct("<QqHB")  # struct linux_dirent64, getdents64(2), up to its name
_ALIGNED = 8
"""Bytes: an entry's length is a multiple of it."""
_FOLDER, _LINK = 4, 10  # readdir(3): DT_DIR, DT_LNK
_ANY_INODE = 1
"""Nobody asks which, and 0 is no entry."""
_FIRST_AT = 2
"""The place of descriptor 0, behind the folder itself and the one above it."""


class Question(NamedTuple):
    """struct seccomp_notif: `asker` is a PID; `fd`, one of its descriptors, is the first argument of its call."""

    number: int
    asker: int
    fd: int
    arguments: tuple[int, ...]
    """The others."""
    about: int
    """The PID whose folder of /proc it asks about; 0: none that we know."""
    name: str
    """The file of that folder."""
    opens: bool = False
    """It is to be opened; else it is open."""
    begins: bool = False
    """It asks nothing about a file: it is about to stop the root of the tree itself (ptrace(2), PTRACE_SEIZE)."""

    @property
    def lists_descriptors(self) -> bool:
        return self.name == "fd" and self.about not in (0, self.asker) and not self.opens


def answer_all(
    listener: int, shown: Callable[[int], Sequence[int] | None], result: Callable[[Question], int | None]
) -> None:  # fmt: skip
    """Answer one question after the other until nobody is left who could ask: `shown` gives the descriptors of a PID
    that are to be seen, and of whatever else is asked `result` what the call gives; None: what the kernel says.
    Raises OSError."""
    kernel = Kernel()
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        [(_, happened)] = poll.poll()
        if not happened & select.POLLIN:
            return
        question = receive(listener)
        if question is None:
            continue
        if question.lists_descriptors:
            list_shown(kernel, listener, question, shown(question.about))
        elif question.begins:
            leave(listener, question)
        else:
            _answer(listener, question, result(question))


def receive(listener: int) -> Question | None:
    """The next question; None where the asker was killed in between. Raises OSError."""
    raw = bytearray(_QUESTION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, raw)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    number, asker, _, call, _, _, fd, *arguments = _QUESTION.unpack(raw)
    fd &= 0xFFFFFFFF
    if call == _PTRACE:
        return Question(number, asker, -1, tuple(arguments), arguments[0], "", begins=True)
    if call == _OPENAT:
        return Question(number, asker, fd, tuple(arguments), *_opened(asker, fd, arguments[0]), opens=True)
    return Question(number, asker, fd, tuple(arguments), *_place(asker, fd))


def give(listener: int, question: Question, fd: int) -> int:
    """Give the asker a duplicate of our descriptor, and its number there. Raises OSError."""
    theirs: int = fcntl.ioctl(listener, _ADD_FD, bytearray(_ADDED.pack(question.number, 0, fd, 0, 0)))
    return theirs


def leave(listener: int, question: Question) -> None:
    """The kernel answers that one. Raises OSError."""
    _answer(listener, question, None)


def list_shown(kernel: Kernel, listener: int, question: Question, shown: Sequence[int] | None) -> None:
    """Answer with these descriptors, in rising order; None: the kernel says which there are. Raises OSError."""
    try:
        _answer(listener, question, None if shown is None else _list(kernel, question, shown))
    except OSError:
        if Path(f"/proc/{question.asker}").exists():
            raise


def _list(kernel: Kernel, question: Question, shown: Sequence[int]) -> int:
    """Do what getdents64(2) does, into the asker's memory; how many bytes. To have the kernel list all, and leave some
    out, takes 4 us for each that there is."""
    address, room, *_ = question.arguments
    with contextlib.ExitStack() as stack:
        pidfd = kernel.pidfd_open(question.asker)
        stack.callback(os.close, pidfd)
        folder = kernel.pidfd_getfd(pidfd, question.fd)  # the asker's own: where it has got to in it moves along
        stack.callback(os.close, folder)
        listed, next_at = _entries(shown, os.lseek(folder, 0, os.SEEK_CUR), room)
        os.lseek(folder, next_at, os.SEEK_SET)
        if listed:
            memory = os.open(f"/proc/{question.asker}/mem", os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, memory)
            os.pwrite(memory, listed, address)
        return len(listed)


def _entries(shown: Sequence[int], start: int, room: int) -> tuple[bytes, int]:
    """Those from a place of the folder on, as far as there is room, and the place behind them. The places are the
    kernel's (K: fs/proc/fd.c, proc_readfd_common)."""
    listed = bytearray()
    names = [(0, b"."), (1, b".."), *((number + _FIRST_AT, b"%d" % number) for number in shown)]
    for at, name in names[bisect_left(names, (start,)) :]:
        length = -(-(_DIRENT.size + len(name) + 1) // _ALIGNED) * _ALIGNED
        if len(listed) + length > room:
            break
        head = _DIRENT.pack(_ANY_INODE, at + 1, length, _FOLDER if at < _FIRST_AT else _LINK)
        listed += (head + name).ljust(length, b"\0")
        start = at + 1
    return bytes(listed), start


def _answer(listener: int, question: Question, result: int | None) -> None:
    """`result` is what the call gives; None: what the kernel says."""
    flags = _CONTINUE if result is None else 0
    try:
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(question.number, result or 0, 0, flags))
    except OSError as error:
        if error.errno != errno.ENOENT:  # killed in between
            raise


def _place(asker: int, fd: int) -> tuple[int, str]:
    """/proc/<pid>/<name>, whatever /proc is called there."""
    try:
        parts = os.readlink(f"/proc/{asker}/fd/{fd}").rsplit("/", 2)  # noqa: PTH115 - four times as fast
    except OSError:
        return 0, ""
    *_, pid, name = ("", "", *parts)
    return (int(pid), name) if pid.isdecimal() else (0, "")


def _opened(asker: int, folder: int, address: int) -> tuple[int, str]:
    """/proc/<pid>/<name>, where the name is a short one; nothing of any other file."""
    try:
        with open(f"/proc/{asker}/mem", "rb", buffering=0) as memory:
            name, end, _ = os.pread(memory.fileno(), _NAME_BYTES, address).partition(b"\0")
        pid = os.readlink(f"/proc/{asker}/fd/{folder}").rsplit("/", 1)[-1] if end else ""  # noqa: PTH115
    except OSError:
        return 0, ""
    return (int(pid), name.decode("ascii", "replace")) if pid.isdecimal() else (0, "")
