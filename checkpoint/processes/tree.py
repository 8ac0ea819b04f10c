"""A process tree: listed from /proc, held by pidfds, continued, killed (`checkpoint.processes.stopping`: stopped).

A `Member` is held by its pidfd, so no signal of ours can reach another process that got its PID afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.waiting import readable

ENDING_SECONDS = 0.05
"""Of a process that ends the first thread may be seen to have ended before the others: so long at most."""
_LOOK_SECONDS = 0.005
_REAPING_SECONDS = 1.0
"""Whose child it is may have other things to do, or never reap."""

ENDING_NICE = 10
"""What a killed tree has left to do nobody waits for: a tenth of what others get of a processor, if they want it."""


@dataclass(frozen=True)
class Member:
    """One process of a tree."""

    pid: int
    start_time: int
    """In clock ticks since boot (proc_pid_stat(5), field 22): with the PID it names a process for ever."""
    pidfd: int


@dataclass
class Tree:
    """Processes held by pidfds; `close` gives the descriptors back."""

    members: list[Member] = field(default_factory=list)
    stopped_before: set[int] = field(default_factory=set)
    """PIDs that somebody else had stopped: they stay stopped when the others go on."""

    @property
    def pids(self) -> list[int]:
        return [member.pid for member in self.members]

    def close(self) -> None:
        for member in self.members:
            os.close(member.pidfd)
        self.members.clear()


@dataclass(frozen=True)
class Stat:
    state: str
    parent: int
    start_time: int


def stat(pid: int, tid: int | None = None) -> Stat | None:
    """The state letter, parent and start time of a process (or of one of its threads); None when it is gone."""
    path = f"/proc/{pid}/stat" if tid is None else f"/proc/{pid}/task/{tid}/stat"
    try:
        raw = procfs.read(path)
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = raw[raw.rindex(b")") + 2 :].split()
    return Stat(fields[0].decode(), int(fields[1]), int(fields[19]))


def threads(pid: int) -> list[int]:
    return sorted(int(name) for name in procfs.names(f"/proc/{pid}/task"))


def descendants(root: int) -> list[int]:
    """The PIDs of the tree under `root`, itself first; empty when it is gone. No zombies: they hold nothing."""
    found: list[int] = []
    todo = [root]
    while todo:
        pid = todo.pop()
        seen = stat(pid)
        if seen is None or is_dead(pid, seen):
            continue
        found.append(pid)
        for tid in threads(pid):
            todo += children(pid, tid)
    return found


def children(pid: int, tid: int) -> list[int]:
    """The processes that one thread has made and not yet waited for."""
    try:
        return [int(child) for child in procfs.read(f"/proc/{pid}/task/{tid}/children").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_filtered(root: int) -> bool:
    """True when a thread of the tree has filters of its system calls (seccomp(2)).

    Whoever has one himself may not suspend them, as CRIU does (K: ptrace.c, ptrace_setoptions).
    """
    tids = (tid for pid in descendants(root) for tid in threads(pid))
    return any(procfs.status(tid).get("Seccomp", "0") != "0" for tid in tids)


def is_alive(pid: int, start_time: int) -> bool:
    """True while the process that had this PID and start time runs (a zombie no longer does)."""
    seen = stat(pid)
    return seen is not None and seen.start_time == start_time and not is_dead(pid, seen)


def is_dead(pid: int, seen: Stat) -> bool:
    """A process shows the state of its first thread, which may end before the others (pthread_exit(3))."""
    return seen.state in "ZX" and len(threads(pid)) < 2


def has_lost_leader(pid: int) -> bool:
    """Whether the first thread has ended, and the others run on. Blocks for ENDING_SECONDS where it has."""
    deadline = time.monotonic() + ENDING_SECONDS
    while (seen := stat(pid)) is not None and seen.state in "ZX" and not is_dead(pid, seen):
        if time.monotonic() > deadline:
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def session_lives(leader: int, start_time: int) -> bool:
    """True while any process runs of the session that this one began (setsid(2)), be it gone itself.

    As long as one does, nobody else gets the leader's PID.
    """
    seen = stat(leader)
    if seen is not None and seen.start_time != start_time:
        return False
    return any(_in_session(pid, leader) for pid in procfs.pids())


def kin(pid: int) -> list[int]:
    """The tree under a living process, itself first, and whoever else is of the session that it began: a child whose
    parent has ended is in no tree."""
    found = descendants(pid)
    return found + [other for other in procfs.pids() if other not in found and _in_session(other, pid)]


def _in_session(pid: int, leader: int) -> bool:
    try:
        return os.getsid(pid) == leader and (seen := stat(pid)) is not None and not is_dead(pid, seen)
    except ProcessLookupError:
        return False


def is_stopped(pid: int) -> bool:
    """True when every thread of a process is in a group stop, but for those that have ended."""
    stopped = False
    for tid in threads(pid):  # as far as the first that is not: there may be thousands
        one = stat(pid, tid)
        if one is not None and one.state not in "ZX":
            if one.state != "T":
                return False
            stopped = True
    return stopped


def hold(kernel: Kernel, pid: int) -> Member | None:
    """Take hold of a process; None when it is gone, whether or not a thread has its number by now."""
    try:
        pidfd = kernel.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):  # a thread: EINVAL, or ENOENT (Linux 6.15)
            raise
        return None
    seen = stat(pid)
    if seen is None:
        os.close(pidfd)
        return None
    return Member(pid, seen.start_time, pidfd)


def hold_all(kernel: Kernel, pids: Iterable[int]) -> Tree:
    return Tree([member for pid in pids if (member := hold(kernel, pid)) is not None])


def hold_known(kernel: Kernel, known: Iterable[Identity]) -> Tree:
    """Those of them that run still: a PID may be another's by now."""
    return hold_all(kernel, [one.pid for one in known if is_alive(one.pid, one.start_time)])


def require_free(pids: Iterable[int]) -> None:
    """Raise AgentError PID_TAKEN when a process or a thread has one of these numbers."""
    for pid in pids:
        if stat(pid) is not None:
            raise AgentError(Code.PID_TAKEN, f"the PID {pid} is taken in this pod")


def send(kernel: Kernel, member: Member, number: signal.Signals) -> bool:
    """Signal one member; False when it is gone."""
    try:
        kernel.pidfd_signal(member.pidfd, number)
    except ProcessLookupError:
        return False
    return True


def resume(kernel: Kernel, tree: Tree) -> None:
    """Let the tree go on, except those that somebody else had stopped. Children first: a parent may look for them."""
    for member in reversed(tree.members):
        if member.pid not in tree.stopped_before:
            send(kernel, member, signal.SIGCONT)


def kill(kernel: Kernel, tree: Tree) -> None:
    """End every process of the tree. Once this returns no instruction of its programs runs any more.

    SIGKILL to a thread group marks every thread of it (K: kernel/signal.c, complete_signal, SIGNAL_GROUP_EXIT), and a
    marked thread passes get_signal, which ends it, before it could return to user space. What remains is the kernel's
    own tear-down (exit_mm, exit_files), which takes the longer the more memory there is; `until_gone` waits for it.
    """
    for member in tree.members:
        send(kernel, member, signal.SIGKILL)


def step_back(tree: Tree) -> None:
    """Have the tree's own end, once it is killed, take a processor from nobody.

    Woken by its SIGKILL a task takes the killer's processor at once, and keeps it while it closes a thousand sockets:
    9 ms, measured. One of SCHED_BATCH does not (K: kernel/sched/fair.c, wakeup preemption). Nothing, where it may not.
    """
    for member in tree.members:
        if is_alive(member.pid, member.start_time):
            for tid in threads(member.pid):
                with contextlib.suppress(OSError):  # not allowed, or gone
                    os.sched_setscheduler(tid, os.SCHED_BATCH, os.sched_param(0))
                    os.setpriority(os.PRIO_PROCESS, tid, ENDING_NICE)


async def until_gone(tree: Tree, seconds: float) -> bool:
    """Wait until every member has ended (a pidfd is readable then, pidfd_open(2)); False when that took too long.

    And, for a moment, until all are reaped: their PIDs are free then, for a workload that comes.
    """
    try:
        async with asyncio.timeout(seconds):
            for member in tree.members:
                if not select.select([member.pidfd], [], [], 0)[0]:
                    await readable(member.pidfd)
    except TimeoutError:
        return False
    deadline = time.monotonic() + _REAPING_SECONDS
    while any(map(_is_there, tree.members)) and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(_LOOK_SECONDS)
    return True


def _is_there(member: Member) -> bool:
    """Or has ended, and not been reaped."""
    seen = stat(member.pid)
    return seen is not None and seen.start_time == member.start_time
