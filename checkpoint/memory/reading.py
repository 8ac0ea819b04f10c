"""The memory of the workload's processes, read from outside."""

from __future__ import annotations

import contextlib
import errno
import os
import struct

from checkpoint import aligned
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import ANSWER_BYTES, Answer, Request, encode_answer, squeeze

_UNREADABLE = (errno.EIO, errno.EFAULT)
_PAGEMAP_ENTRY = struct.Struct("<Q")
_GUARD = 1 << 58  # PM_GUARD_REGION (K: Documentation/admin-guide/mm/pagemap.rst)


class Memory:
    """Of the processes that are open (proc_pid_mem(5)): each as it was then, also where it has started another program
    since. Several threads may `read`."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._buffer = aligned.room(CHUNK_BYTES, ANSWER_BYTES)

    def open(self, pids: list[int]) -> None:
        """Raises OSError."""
        for pid in set(pids) - self._fds.keys():
            with contextlib.suppress(ProcessLookupError):  # a zombie: it has none
                self._fds[pid] = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def answer(self, one: Request) -> memoryview:
        """The answer to a request, header and pages in one piece: they go out in one packet where they fit into one.
        Valid until the next.

        Raises OSError or KeyError for memory that is not there.
        """
        whole = self._buffer[: ANSWER_BYTES + one.size]
        pages = whole[ANSWER_BYTES:]
        self.read(pages, one.process, one.image)
        head = Answer(one.space, one.number, one.size, squeeze(pages))
        whole[:ANSWER_BYTES] = encode_answer(head)
        return whole[: ANSWER_BYTES + head.body_bytes]

    def read(self, view: memoryview, pid: int, start: int) -> None:
        """Fill `view` from `start` on. Raises OSError or KeyError for memory that is not there."""
        size = len(view)
        done = 0
        while done < size:
            try:
                got = os.preadv(self._fds[pid], [view[done:]], start + done)
            except OSError as error:
                if error.errno not in _UNREADABLE or not _is_guard(pid, start + done):
                    raise
                got = PAGE_BYTES - done % PAGE_BYTES
                view[done : done + got] = bytes(got)
            if not got:
                raise OSError(f"process {pid} has ended")
            done += got


def _is_guard(pid: int, address: int) -> bool:
    """Whether it is a guard page (MADV_GUARD_INSTALL), with nothing in it: CRIU makes it one again. Raises OSError."""
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.pread(fd, _PAGEMAP_ENTRY.size, address // PAGE_BYTES * _PAGEMAP_ENTRY.size)
        return len(raw) == _PAGEMAP_ENTRY.size and bool(_PAGEMAP_ENTRY.unpack(raw)[0] & _GUARD)
    finally:
        os.close(fd)
