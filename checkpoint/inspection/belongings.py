"""Look at a workload's files before it is touched: what travels, and what it has open that a dump trips over."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from checkpoint.api import Belongings, DeletedFile, Ground, OpenMount, Problem
from checkpoint.baggage import lent
from checkpoint.baggage.lent import Deleted
from checkpoint.baggage.outgoing import Outgoing
from checkpoint.core.baggage import ROOT, Kind, Listing, shown
from checkpoint.core.errors import Code, problem
from checkpoint.inspection import locks
from checkpoint.processes import procfd, procfs
from checkpoint.processes.procfd import OpenFile
from checkpoint.processes.procfs import Mount

_BLOCK_BYTES = 512  # stat(2), st_blocks

Mounts = Mapping[int, Mapping[int, Mount]]
"""Of each process, by their ids."""

EVERYWHERE = {"proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "debugfs", "tracefs", "bpf"}
"""Kinds of file systems of which every pod has its own, with the same in it."""

_SOME = 5

_SQLITE, _ROLLBACK = b"SQLite format 3\0", 1
_LOG_INSTEAD = "Let the workload open it anew afterwards, or have a write-ahead log (PRAGMA journal_mode=WAL)."


def look(
    pids: Collection[int], outgoing: Outgoing, *, own_root: bool
) -> tuple[Belongings, list[Problem], list[Problem]]:
    """What there is, what stands in the way, and what to know before. Blocks. Raises AgentError NO_FOLDER."""
    files = [file for pid in pids for file in procfd.open_files(pid)]
    deleted = list(lent.deleted(pids))
    grounds = [_ground(one) for one in outgoing.look()]
    ghosts = [_ghost(one) for one in deleted if not one.has_names]
    mounts = {pid: procfs.mounts(pid) for pid in pids}
    found = Belongings(own_root, grounds, ghosts, _in_use(files, deleted, mounts), locks.exclusive(files))
    travel = _that_travel(files, [one.path for one in grounds], mounts)
    return found, list(_problems(deleted)), list(_warnings(travel))


def _ghost(one: Deleted) -> DeletedFile:
    """Its size is what it takes up, for by that CRIU goes (criu: files-reg.c, dump_ghost_remap)."""
    return DeletedFile(shown(one.path), one.found.st_blocks * _BLOCK_BYTES)


def _ground(listing: Listing) -> Ground:
    gone = sum(one.kind is Kind.GONE for one in listing.entries)
    left = [shown(path) for path in listing.left]
    return Ground(shown(listing.ground), listing.files - gone, listing.size_bytes, gone, left[:_SOME], len(left))


def _problems(deleted: list[Deleted]) -> Iterator[Problem]:
    for one in deleted:
        if one.has_names and not lent.can_have_name(one):
            message = "the process uses a file that was deleted while another name of it, or the machine's, remains"
            yield problem(Code.DELETED_FILE, f"{message}: {shown(one.path)}")


def _warnings(travel: Iterable[OpenFile]) -> Iterator[Problem]:
    """SQLite compares a database's inode before it writes a journal (SQLite: os_unix.c, fileHasMoved); with a
    write-ahead log it has none to write."""
    for path in sorted({file.target for file in travel if _is_journalled(file)}):
        message = (
            f"{shown(path)} will be another file to SQLite, whose connections to it that are open now will not write"
        )
        yield problem(Code.NOT_CARRIED, message, hint=_LOG_INSTEAD)


def _that_travel(files: Iterable[OpenFile], grounds: Collection[str], mounts: Mounts) -> Iterator[OpenFile]:
    """Those in a ground; in the root's, which is a layer, those on which nothing else is mounted."""
    for file in files:
        inside = [one for one in grounds if file.target.startswith(f"{one.rstrip('/')}/")]
        mount = mounts[file.pid].get(file.mount)
        if inside and (inside != [ROOT] or (mount is not None and mount.point == ROOT)):
            yield file


def _is_journalled(file: OpenFile) -> bool:
    """Whether it is a database of SQLite's, with a rollback journal, open for writing (sqlite.org/fileformat)."""
    path = Path(f"/proc/{file.pid}/fd/{file.fd}")
    try:
        if not file.flags & os.O_ACCMODE or not path.is_file():
            return False
        with path.open("rb") as database:
            head = database.read(len(_SQLITE) + 3)
    except OSError:
        return False
    return head.startswith(_SQLITE) and head[-1] == _ROLLBACK


def _in_use(files: Iterable[OpenFile], deleted: Iterable[Deleted], mounts: Mounts) -> list[OpenMount]:
    """Each mount beside the root on which a file is open, or one is in use that has another name, once."""
    used = [(mounts[file.pid].get(file.mount), file.target) for file in files if file.target.startswith("/")]
    used += [(lent.mount_of(one.name, mounts[one.pid]), one.path) for one in deleted if one.has_names]
    found = {mount.point: OpenMount(shown(mount.point), mount.what, shown(path))
             for mount, path in reversed(used)
             if mount is not None and mount.point != "/" and mount.kind not in EVERYWHERE}  # fmt: skip
    return list(found.values())


def mounted(pid: int | str = "self") -> dict[str, str]:
    """What is mounted where in this pod; the last one where there are several."""
    return {shown(one.point): one.what for one in procfs.mounts(pid).values()}


def free_bytes() -> int:
    found = os.statvfs("/")
    return found.f_bavail * found.f_frsize
