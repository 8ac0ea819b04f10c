"""Processes that have come of the workload and are in its tree no more: whose parent has ended is a child of PID 1.
They are not moved."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem
from checkpoint.processes import procfs, tree

_MANY = 5
_SHARED = ("socket:[", "pipe:[")


def look(processes: list[int], files: Collection[procfs.OpenFile]) -> Iterator[Problem]:
    """What is known of those of a tree's `processes`, whose root is the first; `files` are what these have open."""
    found = list(_strays(processes, {file.target for file in files if file.target.startswith(_SHARED)}))
    for pid in found[:_MANY]:
        message = (
            f"process {pid} ({_name(pid)}) has come of the workload and is no child of its any more: it stays behind"
        )
        yield problem(Code.STRAY_PROCESS, message)


def _strays(processes: list[int], shared: set[str]) -> Iterator[int]:
    """Of the same session, or with a socket or pipe in common; none of those that were there before the workload."""
    root = tree.stat(processes[0])
    sessions = {session for pid in processes if (session := _session(pid))}
    for name in procfs.names("/proc"):
        pid = int(name) if name.isdigit() else 0
        if pid < 2 or pid in processes or root is None:
            continue
        seen = tree.stat(pid)
        if seen is None or seen.state in "ZX" or seen.start_time < root.start_time:
            continue
        if _session(pid) in sessions or not shared.isdisjoint(_open(pid)):
            yield pid


def _session(pid: int) -> int:
    """0: it is gone, or has that of another PID namespace, as whoever was started from outside."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _open(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    return (procfs.link(f"{folder}/{name}") for name in procfs.names(folder))


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "it has ended"
