"""Descriptors that a stopped process gets from us, at the numbers that they are to have there (unix(7), SCM_RIGHTS).

The kernel gives what is received the lowest numbers that are free. So it is received in the order of the numbers, with
something else where one stays free, which is closed again. The images have given each process the door through which
it comes, at a number above all others: its table of descriptors is large enough by that before it has threads, for
then the kernel takes 10 ms to make one larger (K: fs/file.c, expand_fdtable).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from typing import NamedTuple

from checkpoint.core.descriptors import runs
from checkpoint.kernel import Kernel
from checkpoint.processes import lending, procfs
from checkpoint.processes.lending import Borrowed

_AT_ONCE = 253  # K: SCM_MAX_FD
_CLOSE_RANGE = 436  # the same number on every architecture (asm-generic/unistd.h)
_DO_NOT_WAIT, _CLOSE_ON_EXEC = 0x40, 0x40000000  # linux/socket.h: MSG_DONTWAIT, MSG_CMSG_CLOEXEC

_HEADER = struct.Struct("=QIxxxxQQQQixxxx")  # struct msghdr
_BUFFER, _WORD = struct.Struct("=QQ"), struct.Struct("=Q")  # struct iovec
_CONTROL = struct.Struct("=Qii")  # struct cmsghdr
_CONTROL_AT = _HEADER.size + _BUFFER.size + _WORD.size
_ROOM_BYTES = 4096


class Gift(NamedTuple):
    """A descriptor of ours."""

    fd: int
    close_on_exec: bool


class Door:
    """A unix socket whose one end the images give to each process of a copy."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    @property
    def fd(self) -> int:
        """That end."""
        return self._theirs.fileno()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def give(self, kernel: Kernel, pid: int, number: int, wanted: Mapping[int, Gift]) -> None:
        """Have a stopped process get what is `wanted` at each number of its, through its `number`, which it has no more
        then. Blocks: 2 us each, and 2 ms. Raises OSError.

        A process that shares its table of descriptors with one that was given to has all of them.
        """
        taken = set(map(int, procfs.names(f"/proc/{pid}/fd")))
        if number not in taken and wanted.keys() <= taken:
            return
        if wanted.keys() & taken:
            raise OSError(errno.EEXIST, "they have these numbers already")
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Borrowed(kernel, pid, _ROOM_BYTES) as borrowed:
                numbers = [one for one in range(max(wanted, default=-1) + 1) if one not in taken]
                filled = dict.fromkeys(numbers, Gift(null, close_on_exec=True)) | dict(wanted)
                for some, closed in _messages(numbers, wanted):
                    self._send(borrowed, number, {one: filled[one].fd for one in some}, closed)
                for first, last in runs(sorted({*numbers, number} - wanted.keys())):
                    borrowed.call(_CLOSE_RANGE, first, last, 0)
        finally:
            os.close(null)

    def _send(self, borrowed: Borrowed, door: int, fds: Mapping[int, int], closed: bool) -> None:
        """One message; they must get exactly these numbers."""
        expected = struct.pack(f"={len(fds)}i", *fds)
        size = _CONTROL.size + len(expected)
        buffer_at, control_at = borrowed.room + _HEADER.size, borrowed.room + _CONTROL_AT
        header = _HEADER.pack(0, 0, buffer_at, 1, control_at, size, 0)
        borrowed.write(borrowed.room, header + _BUFFER.pack(buffer_at + _BUFFER.size, 1))
        socket.send_fds(self._ours, [b"\0"], list(fds.values()))
        flags = _DO_NOT_WAIT | (_CLOSE_ON_EXEC if closed else 0)
        assert lending.ABI is not None
        borrowed.call(lending.ABI.recvmsg, door, borrowed.room, flags)
        if borrowed.read(control_at, size) != _CONTROL.pack(size, socket.SOL_SOCKET, socket.SCM_RIGHTS) + expected:
            raise OSError(errno.EBADF, "they did not get their numbers")


def _messages(numbers: Iterable[int], wanted: Mapping[int, Gift]) -> Iterator[tuple[list[int], bool]]:
    """Numbers that go in one message, in order, and whether they are closed on exec; where none is wanted it is all
    one."""
    closed = False

    def is_closed(number: int) -> bool:
        nonlocal closed
        if number in wanted:
            closed = wanted[number].close_on_exec
        return closed

    for kind, group in groupby(numbers, is_closed):
        while some := list(islice(group, _AT_ONCE)):
            yield some, kind
