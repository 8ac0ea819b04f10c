"""Threads that waited when they were dumped go on waiting where they were, too, after a rollback or a checkpoint
(`checkpoint.core.waits` says why; the copy's: `checkpoint.images.cores`)."""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path

from checkpoint.core import waits
from checkpoint.kernel import Kernel
from checkpoint.processes.tree import NAP_SECONDS, NAPS, Tree, is_alive, stat, threads

_LOG = logging.getLogger(__name__)

_NATIVE = 0x33  # __USER_CS (asm/segment.h): 64-bit code
_EVERY_CHILD = 0x40000000  # __WALL (waitpid(2)): a thread too


def restart(kernel: Kernel, tree: Tree) -> int:
    """Of a stopped tree; gives how many threads it was. On x86-64. Some 50 us for each that waits; blocks."""
    if platform.machine() != "x86_64":
        return 0
    tids = [tid for one in tree.members if is_alive(one.pid, one.start_time) for tid in threads(one.pid)]
    return sum(_restart(kernel, tid) for tid in tids if _waits(tid))


def _waits(tid: int) -> bool:
    """In one of the calls that may be made again."""
    try:
        call, *arguments = Path(f"/proc/{tid}/syscall").read_text().split()  # proc_pid_syscall(5)
    except OSError:
        return False
    return call.isdecimal() and waits.may_end_early(int(call), int(arguments[3], 16))


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
            _let_it_stop(kernel, tid)
    except OSError as error:
        _LOG.warning("thread %d is told EINTR by the call that it waits in: %s", tid, error)
        return False


def _let_it_stop(kernel: Kernel, tid: int) -> None:
    """From one kind of stop it goes to the other by itself, within microseconds. It may be one that stays stopped."""
    for _ in range(NAPS):
        seen = stat(tid)
        if seen is None or seen.state in "TZX":
            return
        kernel.nap(NAP_SECONDS)


def _edit(kernel: Kernel, tid: int) -> bool:
    registers = kernel.registers(tid)
    if registers.cs != _NATIVE or not waits.go_on(registers):
        return False
    kernel.set_registers(tid, registers)
    return True
