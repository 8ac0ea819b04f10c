"""A stopped thread in our hands for a moment (ptrace(2))."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from checkpoint.kernel import Kernel
from checkpoint.processes.stopping import NAP_SECONDS, NAPS
from checkpoint.processes.tree import stat

_EVERY_CHILD = 0x40000000  # __WALL (waitpid(2)): a thread too


@contextmanager
def seized(kernel: Kernel, tid: int) -> Iterator[None]:
    """It stands still before, while, and after we have it. Raises OSError; ESRCH for one that was killed."""
    kernel.seize(tid)
    wait(tid)
    try:
        yield
    finally:
        kernel.let_go(tid)
        _let_it_stop(kernel, tid)


def wait(tid: int) -> int:
    """Until a traced thread stands still; gives its status (waitpid(2)). Raises OSError ESRCH: it was killed."""
    _, status = os.waitpid(tid, _EVERY_CHILD)
    if not os.WIFSTOPPED(status):
        raise OSError(errno.ESRCH, "it was killed")
    return status


def _let_it_stop(kernel: Kernel, tid: int) -> None:
    """From one kind of stop it goes to the other by itself, within microseconds. It may be one that stays stopped."""
    for _ in range(NAPS):
        seen = stat(tid)
        if seen is None or seen.state in "TZX":
            return
        kernel.nap(NAP_SECONDS)
