"""Threads that waited in poll(2) when they were dumped go on waiting where they were, too (`checkpoint.images.waits`
says why, and has the copy's): CRIU leaves them as if the call had ended early, with EINTR.
"""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path

from checkpoint.core import polls
from checkpoint.kernel import Kernel
from checkpoint.processes.tree import Tree, is_alive, threads

_LOG = logging.getLogger(__name__)

_EVERY_CHILD = 0x40000000  # __WALL (waitpid(2)): a thread too


def restart(kernel: Kernel, tree: Tree) -> int:
    """Of a stopped tree; gives how many threads it was. On x86-64. Some 50 us for each that is in poll; blocks."""
    if platform.machine() != "x86_64":
        return 0
    tids = [tid for one in tree.members if is_alive(one.pid, one.start_time) for tid in threads(one.pid)]
    return sum(_restart(kernel, tid) for tid in tids if _is_in_poll(tid))


def _is_in_poll(tid: int) -> bool:
    try:
        return Path(f"/proc/{tid}/syscall").read_text().startswith(f"{polls.POLL} ")  # proc_pid_syscall(5)
    except OSError:
        return False


def _restart(kernel: Kernel, tid: int) -> bool:
    try:
        kernel.seize(tid)
        _, status = os.waitpid(tid, _EVERY_CHILD)
        if not os.WIFSTOPPED(status):
            return False  # it was killed
        try:
            return _edit(kernel, tid)
        finally:
            kernel.let_go(tid)
    except OSError as error:
        _LOG.warning("thread %d is told EINTR by poll: %s", tid, error)
        return False


def _edit(kernel: Kernel, tid: int) -> bool:
    registers = kernel.registers(tid)
    found = polls.again(registers.orig_ax, registers.ax, registers.ip)
    if found is None:
        return False
    registers.ax, registers.ip = found
    kernel.set_registers(tid, registers)
    return True
