"""The processes and threads of a workload that CRIU (4.2.1) cannot save, and what the copies of others would lack."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress

from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem
from checkpoint.kernel import Kernel, Shared
from checkpoint.processes import procfs, tree

_SCHED_DEADLINE = 6  # linux/sched.h
_PASSING_SECONDS = 0.05
"""Ample: between vfork(2) and exec a child has its parent's memory, and a thread that ends has no descriptors."""
_LOCKED_BUT_KIB = 1024
"""So much of a process is locked by nobody: what the kernel itself has mapped into it."""
_PARTS = {Shared.MEMORY: "memory (CLONE_VM)", Shared.FOLDERS: "folders (CLONE_FS)"}
"""What CRIU does not share out again (criu: cr-dump.c, dump_task_kobj_ids); descriptors it does."""


def problems(kernel: Kernel, processes: list[int]) -> Iterator[Problem]:
    ours, root = procfs.namespaces("self"), procfs.namespaces(processes[0])
    owners = {owner for pid in processes for owner in procfs.owners(pid)}
    if len(owners) > 1 and not procfs.may_read_limits():
        message = "the workload's processes belong to different users, whose limits the agent may not read"
        yield problem(Code.NO_CAPABILITY, message, hint="Give the agent CAP_SYS_RESOURCE, or run the tree as one user.")
    for pid in processes:
        yield from _of_threads(kernel, pid)
        yield from _of_process(kernel, pid, processes)
        theirs = procfs.namespaces(pid)
        # An IPC namespace of the tree's own is carried along; one move gives it to a tree with System V objects.
        for kind in theirs:
            if theirs[kind] != ours.get(kind) and (kind != "ipc" or theirs[kind] != root.get("ipc")):
                yield problem(Code.FOREIGN_NAMESPACE, f"process {pid} lives in a {kind} namespace of its own")


def _of_process(kernel: Kernel, pid: int, processes: list[int]) -> Iterator[Problem]:
    tracer = int(procfs.status(pid).get("TracerPid", "0"))
    if tracer:
        yield problem(Code.TRACED, f"process {pid} is being traced by process {tracer}")
    if tree.has_lost_leader(pid):
        message = f"the first thread of process {pid} has ended, and others run on"
        yield problem(Code.UNSUPPORTED_PROCESS, message)
    if procfs.link(f"/proc/{pid}/exe").startswith("/memfd:"):
        message = f"the program of process {pid} is in no file (memfd_create(2)), and could not be found again"
        yield problem(Code.UNSUPPORTED_PROCESS, message, hint="Let it be started from a file.")
    seen = tree.stat(pid)
    if seen is not None and seen.parent in processes:
        for what, words in _PARTS.items():
            if _stays(kernel, pid, seen.parent, what, shared=True):
                message = f"process {pid} has its {words} in common with process {seen.parent}, which cannot be saved"
                yield problem(Code.UNSUPPORTED_PROCESS, message, hint="Let it be a thread, or a process of its own.")


def _stays(kernel: Kernel, one: int, other: int, what: Shared, *, shared: bool) -> bool:
    """Whether two tasks have that in common, or not, and not only in passing."""
    if kernel.is_shared(one, other, what) is not shared:
        return False
    time.sleep(_PASSING_SECONDS)
    return kernel.is_shared(one, other, what) is shared


def _of_threads(kernel: Kernel, pid: int) -> Iterator[Problem]:
    folder = procfs.link(f"/proc/{pid}/cwd")
    if not folder:  # its first thread has ended
        return
    threads = tree.threads(pid)
    for tid in threads:
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK == _SCHED_DEADLINE:
                message = f"thread {tid} is scheduled by SCHED_DEADLINE, which cannot be restored"
                yield problem(Code.UNSUPPORTED_FILE, message, hint="Let it take another policy.")
        if (own := procfs.link(f"/proc/{pid}/task/{tid}/cwd")) and own != folder:
            message = (
                f"thread {tid} has a folder of its own ({own}; unshare(2), CLONE_FS), which would be its process's"
            )
            yield problem(Code.UNSUPPORTED_FILE, message, hint="Let processes do that, not threads.")
    if apart := next((tid for tid in threads if _stays(kernel, pid, tid, Shared.DESCRIPTORS, shared=False)), None):
        message = f"thread {apart} has descriptors of its own (unshare(2), CLONE_FILES), which would be lost"
        yield problem(Code.UNSUPPORTED_FILE, message, hint="Let processes do that, not threads.")


def warnings(processes: list[int]) -> Iterator[Problem]:
    """What CRIU loses of a process, and can be seen from outside."""
    usual = _personality("self")
    for pid in processes:
        personality, policy = _personality(pid), _policy(pid)
        lost = [
            f"personality {personality} (setarch(8))" if personality not in ("", usual) else "",
            "merging of equal pages (PR_SET_MEMORY_MERGE)" if _merges(pid) else "",
            f"NUMA policy, {policy} (numactl(8))" if policy not in ("", "default") else "",
            "promise that memory to come is locked too, if it has one (mlockall(2), MCL_FUTURE)" if _locks(pid) else "",
        ]
        for what in filter(None, lost):
            yield problem(Code.NOT_CARRIED, f"process {pid} will not have its {what} after the move")


def _personality(pid: int | str) -> str:
    """As hexadecimal digits; "" when it is gone, or may not be asked."""
    with suppress(OSError):
        return procfs.read(f"/proc/{pid}/personality").decode().strip()
    return ""


def _merges(pid: int) -> bool:
    with suppress(OSError):
        return b"ksm_merge_any: yes" in procfs.read(f"/proc/{pid}/ksm_stat")
    return False


def _policy(pid: int) -> str:
    """Of its first area, which has the process's own (numa(7)): the others' pages would be counted for nothing."""
    with suppress(OSError):
        _, *words = procfs.read_start(f"/proc/{pid}/numa_maps", 64).decode().split() or [""]
        return words[0] if words else ""  # none: its first thread has ended
    return ""


def _locks(pid: int) -> bool:
    """Whether all of its memory is locked."""
    found = procfs.status(pid)
    locked, size = (int(found.get(name, "0").split()[0]) for name in ("VmLck", "VmSize"))
    return locked > 0 and size - locked <= _LOCKED_BUT_KIB
