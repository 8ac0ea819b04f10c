"""Threads that waited when they were dumped go on waiting where they were, too, after a rollback or a checkpoint
(`checkpoint.core.waits` says why; the copy's: `checkpoint.images.cores`)."""

from __future__ import annotations

import errno
import logging
import platform
from pathlib import Path

from checkpoint.core import waits
from checkpoint.kernel import Kernel
from checkpoint.processes.tracing import seized
from checkpoint.processes.tree import Tree, is_alive, threads

_LOG = logging.getLogger(__name__)

_NATIVE = 0x33  # __USER_CS (asm/segment.h): 64-bit code


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
        with seized(kernel, tid):
            return _edit(kernel, tid)
    except OSError as error:
        if error.errno != errno.ESRCH:
            _LOG.warning("thread %d is told EINTR by the call that it waits in: %s", tid, error)
        return False


def _edit(kernel: Kernel, tid: int) -> bool:
    registers = kernel.registers(tid)
    if registers.cs != _NATIVE or not waits.go_on(registers):
        return False
    kernel.set_registers(tid, registers)
    return True
