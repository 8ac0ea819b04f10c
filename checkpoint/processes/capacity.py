"""How much memory this machine, and the control groups that we are in, have left to give."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from checkpoint.processes import procfs

_KIB = 1024
_TABLE_DESCRIPTORS, _CRIUS_DESCRIPTORS, _DOORS = 128, 31, 1
_OVERCOMMIT_ALWAYS, _OVERCOMMIT_NEVER = 1, 2  # linux/mman.h


def grantable_bytes() -> int:
    """The most that this machine lets anybody allocate at a time, used or not (K: mm/util.c, __vm_enough_memory)."""
    policy = int(Path("/proc/sys/vm/overcommit_memory").read_text())
    if policy == _OVERCOMMIT_ALWAYS:
        return sys.maxsize
    if policy == _OVERCOMMIT_NEVER:
        return _machine_bytes("CommitLimit") - _machine_bytes("Committed_AS")
    return _machine_bytes("MemTotal") + _machine_bytes("SwapTotal")


def _machine_bytes(name: str) -> int:
    """One line of /proc/meminfo."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * _KIB for line in lines if line.startswith(f"{name}:"))


def most_descriptors() -> int:
    """Below which number those of a copy are, for in each process CRIU has some of its own above them, and no higher
    limit than this process where it may not raise it (criu: servicefd.c, choose_service_fd_base); and we have one
    (`checkpoint.sockets.giving`)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if procfs.may_read_limits():
        limit = int(Path("/proc/sys/fs/nr_open").read_text())
    return limit // _TABLE_DESCRIPTORS * _TABLE_DESCRIPTORS - _CRIUS_DESCRIPTORS - _DOORS


def free_huge_bytes(folder: Path = Path("/sys/kernel/mm/hugepages")) -> dict[int, int]:
    """What hugetlbfs could still give, by the size of its pages (K: admin-guide/mm/hugetlbpage.rst)."""
    found: dict[int, int] = {}
    for one in folder.glob("hugepages-*kB"):
        free, kept, more, surplus = (
            int((one / f"{name}_hugepages").read_text()) for name in ("free", "resv", "nr_overcommit", "surplus")
        )
        size = int(one.name.removeprefix("hugepages-").removesuffix("kB")) * _KIB
        found[size] = (free - kept + max(0, more - surplus)) * size
    return found


def room_bytes() -> int:
    """The smaller of the machine's MemAvailable and what the memory cgroup of this process has left."""
    available = _machine_bytes("MemAvailable")
    return min([available, *_cgroup_left()])


def _cgroup_left() -> Iterator[int]:
    """What is left below each limit on the way up to the root, cgroup v2 or v1 (cgroups(7))."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        here = base / path.lstrip("/")
        while here == base or base in here.parents:
            left = _left(here / limit, here / usage)
            if left is not None:
                yield left
            here = here.parent


def _left(limit: Path, usage: Path) -> int | None:
    try:
        most = limit.read_text().strip()
        if most == "max":
            return None
        return max(0, min(int(most), sys.maxsize) - int(usage.read_text()))
    except OSError:
        return None
