"""Look at a workload's files before it is touched: what travels, and what it has open that a dump trips over."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from checkpoint.api import Belongings, DeletedFile, Ground, OpenMount, Problem
from checkpoint.baggage.outgoing import Outgoing
from checkpoint.core.baggage import Kind, Listing, shown
from checkpoint.core.errors import Code, problem
from checkpoint.inspection import locks
from checkpoint.processes import procfs
from checkpoint.processes.procfs import FileArea, Mount, OpenFile

_DELETED = " (deleted)"
_NAMELESS = ("/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage", "/[aio]")
_BLOCK_BYTES = 512  # stat(2), st_blocks

EVERYWHERE = {"proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "debugfs", "tracefs", "bpf"}
"""Kinds of file systems of which every pod has its own, with the same in it."""

_SOME = 5


def look(pids: Iterable[int], outgoing: Outgoing, *, own_root: bool) -> tuple[Belongings, list[Problem]]:
    """What there is, and what is known to stand in the way. Blocks. Raises AgentError NO_FOLDER."""
    files = [file for pid in pids for file in procfs.open_files(pid)]
    areas = [area for pid in pids for area in procfs.file_areas(pid)]
    deleted = list(_deleted(files, areas))
    grounds = [_ground(one) for one in outgoing.look()]
    ghosts = [DeletedFile(path, size) for path, size, names in deleted if not names]
    return Belongings(own_root, grounds, ghosts, list(_mounts(files)), locks.exclusive(files)), list(_problems(deleted))


def _ground(listing: Listing) -> Ground:
    gone = sum(one.kind is Kind.GONE for one in listing.entries)
    left = [shown(path) for path in listing.left]
    return Ground(shown(listing.ground), listing.files - gone, listing.size_bytes, gone, left[:_SOME], len(left))


def _deleted(files: list[OpenFile], areas: list[FileArea]) -> Iterator[tuple[str, int, int]]:
    """Path, size and left names of each open or mapped file whose path is gone, once. Its size is what it takes up, for
    by that CRIU goes (criu: files-reg.c, dump_ghost_remap)."""
    links = {f"/proc/{file.pid}/fd/{file.fd}": file.target for file in files}
    links |= {area.link: area.path for area in areas}
    seen = set()
    for link, target in links.items():
        if not target.endswith(_DELETED) or target.startswith(_NAMELESS):
            continue
        try:
            found = Path(link).stat()
        except OSError:
            continue  # closed meanwhile
        if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            yield shown(target.removesuffix(_DELETED)), found.st_blocks * _BLOCK_BYTES, found.st_nlink


def _problems(deleted: list[tuple[str, int, int]]) -> Iterator[Problem]:
    for path, _, names in deleted:
        if names:
            message = "the process uses a file that was deleted while another name of it, or the machine's, remains"
            yield problem(Code.DELETED_FILE, f"{message}: {path}")


def _mounts(files: list[OpenFile]) -> Iterator[OpenMount]:
    """Each mount beside the root on which a file is open, once."""
    known: dict[int, dict[int, Mount]] = {}
    seen = set()
    for file in files:
        if not file.target.startswith("/") or file.mount in seen:
            continue
        if file.pid not in known:
            known[file.pid] = procfs.mounts(file.pid)
        mount = known[file.pid].get(file.mount)
        if mount is not None and mount.point != "/" and mount.kind not in EVERYWHERE:
            seen.add(file.mount)
            yield OpenMount(shown(mount.point), mount.what, shown(file.target))


def mounted(pid: int | str = "self") -> dict[str, str]:
    """What is mounted where in this pod; the last one where there are several."""
    return {shown(one.point): one.what for one in procfs.mounts(pid).values()}


def free_bytes() -> int:
    found = os.statvfs("/")
    return found.f_bavail * found.f_frsize
