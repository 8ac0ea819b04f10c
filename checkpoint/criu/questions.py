"""What CRIU asks the kernel of a stopped process, and somebody else answers: which descriptors it has, but for those
that CRIU is not to see; and whether it may begin. CRIU stands still in its system call meanwhile (seccomp_unotify(2),
`checkpoint.criu.shade`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import struct
from collections.abc import Callable, Container
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
    listener: int, hidden: Callable[[int], Container[int]], result: Callable[[Question], int | None]
) -> None:  # fmt: skip
    """Answer one question after the other until nobody is left who could ask: `hidden` gives the descriptors of a PID
    that are not to be seen, and of whatever else is asked `result` what the call gives; None: what the kernel says.
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
            list_others(kernel, listener, question, hidden(question.about))
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


def list_others(kernel: Kernel, listener: int, question: Question, hidden: Container[int]) -> None:
    """Answer with the descriptors that are not hidden. Raises OSError."""
    try:
        _answer(listener, question, _list(kernel, question, hidden))
    except OSError:
        if Path(f"/proc/{question.asker}").exists():
            raise


def _list(kernel: Kernel, question: Question, hidden: Container[int]) -> int:
    """Do what getdents64(2) does, into the asker's memory, without these; how many bytes."""
    address, room, *_ = question.arguments
    with contextlib.ExitStack() as stack:
        pidfd = kernel.pidfd_open(question.asker)
        stack.callback(os.close, pidfd)
        folder = kernel.pidfd_getfd(pidfd, question.fd)  # the asker's own: where it has got to in it moves along
        stack.callback(os.close, folder)
        buffer = ctypes.create_string_buffer(min(room, 1 << 20))
        while size := kernel.list_folder(folder, buffer):
            if rest := _without(buffer.raw[:size], hidden):
                memory = os.open(f"/proc/{question.asker}/mem", os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, memory)
                os.pwrite(memory, rest, address)
                return len(rest)
    return 0


def _without(listed: bytes, hidden: Container[int]) -> bytes:
    kept, at = [], 0
    while at < len(listed):
        _, _, length, _ = _DIRENT.unpack_from(listed, at)
        name = listed[at + _DIRENT.size : at + length].split(b"\0", 1)[0]
        if not name.isdigit() or int(name) not in hidden:
            kept.append(listed[at : at + length])
        at += length
    return b"".join(kept)


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
