"""Epolls of a copy begin to watch descriptors that it was given.

An epoll knows what it watches by the number that this has where epoll_ctl(2) is called. So that is done by a thread of
ours with a table of descriptors of XX"""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from checkpoint.core.descriptors import Place, runs
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs


class Target(NamedTuple):
    fd: int
    """Ours."""
    number: int
    """Its, in the copy."""
    events: int
    data: int


class Watches:
    """What epolls are to watch: each `place`d in the other table, and said to the epolls by `begin`; `close` gives that
    up. All of them block."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._thread: ThreadPoolExecutor | None = None
        self._table: _Table | None = None

    def place(self, numbers: Mapping[int, int]) -> None:
        """Descriptors of ours, and the number that each will have in the copy, most likely. 3 us each. Raises
        OSError."""
        self.close()
        if numbers:
            self._thread = ThreadPoolExecutor(1, "watch")
            self._table = self._thread.submit(_Table, self._kernel, numbers).result()

    def begin(self, wanted: Sequence[tuple[Place, Sequence[Target]]]) -> None:
        """Have these epolls watch these, which were placed. 2 us each. Raises OSError."""
        if self._thread is not None and self._table is not None:  # else there is nothing to be watched
            self._thread.submit(self._table.begin, wanted).result()

    def close(self) -> None:
        """Of what they watch nothing is kept any more."""
        if self._thread is None:
            return
        if self._table is not None:
            self._thread.submit(self._table.keep, ()).result()  # which ends after its thread, by a moment
            self._table = None
        self._thread.shutdown()
        self._thread = None


class _Table:
    """The calling thread's table of descriptors: from now on its own, and in it nothing but what is to be watched."""

    def __init__(self, kernel: Kernel, numbers: Mapping[int, int]) -> None:
        """Each is at its number, where no other is wanted there sooner, and it is no higher than we may have."""
        kernel.unshare_descriptors()
        self._kernel = kernel
        self._now = {fd: fd for fd in numbers}
        """Where each of them is. Where it was before it may be still: nobody minds."""
        self._last = dict(self._now)
        """Which of them was put there last."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        first: dict[int, int] = {}
        for fd, number in numbers.items():
            if number < most:
                first.setdefault(number, fd)
        self._above = 1 + max(first, default=0)
        """Numbers from here on are nobody's."""
        for number, fd in first.items():
            self.move(fd, number)
        self.keep(self._now.values())  # what else we close meanwhile ends then, and not when this thread does

    def keep(self, numbers: Iterable[int]) -> None:
        """Nothing else."""
        for start, end in runs(sorted(set(map(int, procfs.names("/proc/thread-self/fd"))).difference(numbers))):
            os.closerange(start, end + 1)

    def begin(self, wanted: Sequence[tuple[Place, Sequence[Target]]]) -> None:
        """See Watches."""
        self._above = max([self._above, *(1 + one.number for _, targets in wanted for one in targets)])
        epolls = [self.fetch(place) for place, _ in wanted]  # all of them, before any number is another's
        for epoll, (_, targets) in zip(epolls, wanted, strict=True):
            for target in targets:
                self.move(target.fd, target.number)
            self._kernel.watch(epoll, [(one.number, one.events, one.data) for one in targets])

    def move(self, fd: int, number: int) -> None:
        """What was that descriptor of ours is to be at that number."""
        now, other = self._now[fd], self._last.get(number, fd)
        if now == number and other == fd:
            return
        if other != fd and self._now[other] == number:
            self._put(other, self._out_of_the_way(number))
        os.dup2(now, number)
        if now >= self._above:  # such numbers are to last
            os.close(now)
        self._put(fd, number)

    def fetch(self, place: Place) -> int:
        """A duplicate of another process's, above all numbers that are wanted."""
        pid, number = place
        pidfd = self._kernel.pidfd_open(pid)
        try:
            mine = self._kernel.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)
        try:
            return self._out_of_the_way(mine)
        finally:
            os.close(mine)

    def _out_of_the_way(self, fd: int) -> int:
        """One more for the same."""
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, self._above)

    def _put(self, fd: int, number: int) -> None:
        self._now[fd], self._last[number] = number, fd
