"""The file locks of a workload: those that a copy gets only on files of its own, and those that CRIU loses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from checkpoint.api import FileLock, Problem
from checkpoint.core.baggage import shown
from checkpoint.core.errors import Code, problem
from checkpoint.processes import locks as held
from checkpoint.processes import procfs
from checkpoint.processes.procfd import OpenFile
from checkpoint.processes.procfs import Mount

_NAMES = {"FLOCK": "flock", "POSIX": "fcntl", "OFDLCK": "F_OFD_SETLK"}


def exclusive(files: Iterable[OpenFile]) -> list[FileLock]:
    """Each exclusive lock on a file that has a name, once; shared ones the copy has beside its source.

    Files without a name, deleted ones and memfds, are made anew for the copy.
    """
    return list(dict.fromkeys(_exclusive(files)))


def _exclusive(files: Iterable[OpenFile]) -> Iterator[FileLock]:
    mounts: dict[int, dict[int, Mount]] = {}
    for file in files:
        kinds = [_NAMES[lock.kind] for lock in file.locks if lock.exclusive and lock.kind in _NAMES]
        if not kinds or not file.target.startswith("/") or not _has_a_name(file):
            continue
        if file.pid not in mounts:
            mounts[file.pid] = procfs.mounts(file.pid)
        if (mount := mounts[file.pid].get(file.mount)) is not None:  # else it is none of the pod's, and refused as such
            yield FileLock(shown(file.target), kinds[0], shown(mount.point), mount.what)


def _has_a_name(file: OpenFile) -> bool:
    try:
        return Path(f"/proc/{file.pid}/fd/{file.fd}").stat().st_nlink > 0
    except OSError:
        return False  # closed meanwhile


def lost(files: Iterable[OpenFile]) -> Iterator[Problem]:
    """The locks that CRIU (4.2.1) cannot save, and we cannot either."""
    mapped: dict[int, set[str]] = {}  # of those alone whose locks on such files are lost
    for file in files:
        what = f"{file.target} (fd {file.fd})"
        kinds = {lock.kind for lock in file.locks}
        if any(lock.kind not in _NAMES and lock.exclusive for lock in file.locks):
            # files.c, dump_one_file: it opens the file, and waits for the lease to be given up.
            message = f"the process holds a lease for writing (F_SETLEASE) on a file: {what}"
            yield problem(Code.UNSUPPORTED_FILE, message, hint="CRIU cannot save it; let the process give it up.")
        if held.POSIX in kinds and file.pid not in mapped:
            mapped[file.pid] = set() if held.can_be_kept(file.pid) else procfs.mapped_files(file.pid)
        if held.POSIX in kinds and file.target in mapped[file.pid]:
            message = f"the process holds a lock (fcntl) on a file that it has mapped too: {what}"
            hint = "With seccomp filters, or of 32 bits, its copy cannot be made to take it; a lock by flock moves."
            yield problem(Code.UNSUPPORTED_FILE, message, hint=hint)
