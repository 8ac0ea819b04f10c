"""A process tree is stopped until every task of it stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable

from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.processes.tree import (
    Tree,
    children,
    descendants,
    hold,
    is_alive,
    is_dead,
    is_stopped,
    resume,
    send,
    stat,
    threads,
)

STOP_SECONDS = 5.0
"""Ample: a task stops when it next leaves the kernel. One in an uninterruptible wait (a dead NFS server) never does."""

NAP_SECONDS = 0.00005
"""The kernel tells nobody but the parent that a task stopped, so it is looked at. A task needs about 50 us to stop."""

NAPS = 40
"""So many naps block the event loop for 2 to 4 ms at most; then the waiting goes on beside other work."""

POLL_SECONDS = 0.002


async def stop(kernel: Kernel, root: int) -> Tree:
    """Stop the tree under `root`, children that appear meanwhile too, and return when every task is in state T.

    Who ended meanwhile is no member of it: its parent may still have waited for it.
    Raises AgentError WORKLOAD_GONE or NOT_STOPPED; then what was stopped goes on.
    """
    tree = Tree()
    let_go: set[int] = set()
    try:
        await _until(kernel, lambda: _stop_once(kernel, root, tree, let_go), lambda: tree.pids)
    except BaseException:
        resume(kernel, tree)
        tree.close()
        raise
    _forget_ended(tree)
    return tree


def _forget_ended(tree: Tree) -> None:
    for member in [one for one in tree.members if not is_alive(one.pid, one.start_time)]:
        tree.members.remove(member)
        os.close(member.pidfd)


def _stop_once(kernel: Kernel, root: int, tree: Tree, let_go: set[int]) -> bool:
    """Signal what is new in the tree; True when there was nothing new and all stand still."""
    pids = descendants(root)
    if not pids:
        raise AgentError(Code.WORKLOAD_GONE, f"the workload (process {root}) has ended")
    known = set(tree.pids)
    fresh = [pid for pid in pids if pid not in known]
    for pid in fresh:
        was_stopped = is_stopped(pid)
        member = hold(kernel, pid)
        if member is None:
            continue
        tree.members.append(member)
        if was_stopped:
            # A job of a shell, mostly, stopped by its terminal: CRIU knows no stop but SIGSTOP's (compel: infect.c). A
            # SIGSTOP cancels the SIGCONT before it, so not one instruction runs, and no handler.
            tree.stopped_before.add(pid)
            send(kernel, member, signal.SIGCONT)
        send(kernel, member, signal.SIGSTOP)
    moving = [pid for pid in pids if not is_stopped(pid)]
    _help_vforks(kernel, tree, moving, let_go)
    return not fresh and not moving and not let_go


def _help_vforks(kernel: Kernel, tree: Tree, moving: Iterable[int], let_go: set[int]) -> None:
    """Let children that were stopped between vfork(2) and exec run on to the exec, then stop them again.

    Their parent waits for it within the kernel, in state D, where no stop reaches it (K: fork.c, wait_for_vfork_done).
    `let_go` holds the children that are on their way.
    """
    waited_for = {child for pid in moving for child in _waited_for(pid)} - tree.stopped_before
    for member in tree.members:
        if member.pid in waited_for and member.pid not in let_go and is_stopped(member.pid):
            let_go.add(member.pid)
            send(kernel, member, signal.SIGCONT)
        elif member.pid in let_go and member.pid not in waited_for:
            let_go.discard(member.pid)
            send(kernel, member, signal.SIGSTOP)


def _waited_for(pid: int) -> list[int]:
    """The children of those threads that are in an uninterruptible wait."""
    waiting = [tid for tid in threads(pid) if (seen := stat(pid, tid)) is not None and seen.state == "D"]
    return [child for tid in waiting for child in children(pid, tid)]


async def until_stopped(kernel: Kernel, pids: Iterable[int]) -> None:
    """Wait until every task of these processes is in state T; raises AgentError NOT_STOPPED. Zombies stand still."""
    waiting = [pid for pid in pids if (seen := stat(pid)) is None or not is_dead(pid, seen)]
    await _until(kernel, lambda: all(is_stopped(pid) for pid in waiting), lambda: waiting)


async def _until(kernel: Kernel, reached: Callable[[], bool], pids: Callable[[], list[int]]) -> None:
    for _ in range(NAPS):
        if reached():
            return
        kernel.nap(NAP_SECONDS)
    deadline = kernel.now() + STOP_SECONDS
    while not reached():
        if kernel.now() > deadline:
            moving = [pid for pid in pids() if not is_stopped(pid)]
            raise AgentError(Code.NOT_STOPPED, f"these processes do not stop: {moving}")
        await asyncio.sleep(POLL_SECONDS)
