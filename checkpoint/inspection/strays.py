"""Processes that have come of the workload and that a move would leave behind, or nobody would be the parent of: CRIU
dumps those below the workload's first process, and no others."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem
from checkpoint.processes import procfd, procfs, tree

_MANY = 5
_SHARED = ("socket:[", "pipe:[")


def of_session(processes: list[int]) -> Iterator[Problem]:
    """Those of the session that the first of a tree's `processes`, the root, has begun and that their parents have
    left; and those that the root has adopted, which CRIU gives it not as children where neither has begun their session
    (criu: pstree.c, prepare_pstree_ids)."""
    root, known = processes[0], set(processes)
    if _session(root) != root:  # it was not started by an agent
        return
    for pid in procfs.pids():
        seen, session = tree.stat(pid), _session(pid)
        if seen is None or seen.state in "ZX":
            continue
        if pid not in known and session == root and not _is_below(pid, root):
            message = f"process {pid} is of the workload's session, but below none of its processes: it would stay"
            yield problem(Code.LEFT_BY_PARENT, message)
        elif pid in known and seen.parent == root and session not in (root, pid):
            message = f"process {pid}, which the workload's first process has adopted, would be nobody's in the copy"
            yield problem(Code.LEFT_BY_PARENT, message)


def with_shared(processes: list[int], files: Collection[procfd.OpenFile]) -> Iterator[Problem]:
    """Those of sessions of their own that have a socket or a pipe in common with the tree; `files` are what that has
    open. None of those that were there before the root."""
    root, known, session = tree.stat(processes[0]), set(processes), _session(processes[0])
    if root is None:
        return
    shared = {file.target for file in files if file.target.startswith(_SHARED)}
    others = [pid for pid in procfs.pids() if pid not in known and _session(pid) != session]
    found = [pid for pid in others if _has(pid, shared, root.start_time)]
    for pid in found[:_MANY]:
        message = f"process {pid} ({_name(pid)}) has come of the workload and is below none of its processes: it stays"
        yield problem(Code.STRAY_PROCESS, message)


def _has(pid: int, shared: set[str], since: int) -> bool:
    """Whether it was started since then, and has one of these open."""
    seen = tree.stat(pid)
    if pid < 2 or seen is None or seen.state in "ZX" or seen.start_time < since:
        return False
    folder = f"/proc/{pid}/fd"
    return not shared.isdisjoint(procfs.link(f"{folder}/{name}") for name in procfs.names(folder))


def _is_below(pid: int, root: int) -> bool:
    """As one is that was born since the tree was listed."""
    while pid > 1 and pid != root:
        seen = tree.stat(pid)
        pid = 0 if seen is None else seen.parent
    return pid != 1


def _session(pid: int) -> int:
    """0: it is gone, or has that of another PID namespace, as whoever was started from outside."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "it has ended"
