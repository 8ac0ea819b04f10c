"""Epolls of a copy begin to watch descriptors that it was given.

An epoll knows what it watches by the number that this has where epoll_ctl(2) is called. So that is done by a thread of
ours with a table of descriptors of its own, in which each has the number that it has in the copy.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from checkpoint.kernel import Kernel


class Target(NamedTuple):
    fd: int
    """Ours."""
    number: int
    """Its, in the copy."""
    events: int
    data: int


class Watch(NamedTuple):
    epoll: int
    """A descriptor of ours."""
    targets: Sequence[Target]


def begin(kernel: Kernel, wanted: Sequence[Watch]) -> None:
    """Blocks: 7 us each. Raises OSError."""
    with ThreadPoolExecutor(1, "watch") as thread:  # its table ends with it
        thread.submit(_begin, kernel, wanted).result()


def _begin(kernel: Kernel, wanted: Sequence[Watch]) -> None:
    kernel.unshare_descriptors()
    targets = [target for one in wanted for target in one.targets]
    table = _Table({one.fd for one in targets}, above=1 + max((one.number for one in targets), default=0))
    epolls = [table.out_of_the_way(one.epoll) for one in wanted]  # all of them, before any number is another's
    for epoll, one in zip(epolls, wanted, strict=True):
        for target in one.targets:
            table.move(target.fd, target.number)
            kernel.watch(epoll, target.number, target.events, target.data)


class _Table:
    """This thread's table of descriptors."""

    def __init__(self, ours: Iterable[int], above: int) -> None:
        """`ours` are to be moved; numbers from `above` on are free."""
        self._above = above
        self._now = {fd: fd for fd in ours}
        """Where each of them is. Where it was before it may be still: nobody minds."""
        self._last = dict(self._now)
        """Which of them was put there last."""

    def move(self, fd: int, number: int) -> None:
        """What was that descriptor of ours is to be at that number."""
        other = self._last.get(number, fd)
        if other != fd and self._now[other] == number:
            self._put(other, self.out_of_the_way(number))
        now = self._now[fd]
        os.dup2(now, number)
        if now >= self._above:  # such numbers are to last
            os.close(now)
        self._put(fd, number)

    def out_of_the_way(self, fd: int) -> int:
        """One more for the same."""
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, self._above)

    def _put(self, fd: int, number: int) -> None:
        self._now[fd], self._last[number] = number, fd
