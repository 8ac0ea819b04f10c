"""The POSIX locks (fcntl_locking(2)) that a process has on files that it has mapped too, as SQLite (a WAL's index) and
LMDB have them.

CRIU loses them: it restores locks first, then mappings, each by a descriptor that it closes afterwards, and with any
descriptor of a file its process's locks on it go (criu: cr-restore.c, restore_one_alive_task). So they are read at the
source, beside the dump, and the copy takes them once more before it runs. Until the commit its source holds them, too.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from operator import attrgetter

import msgspec

from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.processes import lending, procfd, procfs
from checkpoint.processes.lending import Borrowed
from checkpoint.processes.procfd import HeldLock, OpenFile

FILE = "held-locks.json"
"""A file of ours among the images: a list of `MappedLock`."""

POSIX = "POSIX"
_FLOCK = struct.Struct("hhqqi4x")  # struct flock
_LISTED = "/proc/locks"


class MappedLock(msgspec.Struct, frozen=True):
    """One, by a descriptor that it can be taken by."""

    pid: int
    fd: int
    exclusive: bool
    start: int
    size: int
    """0: to the end, however far that is."""


def read(pids: Collection[int]) -> list[MappedLock]:
    """Of these processes. Blocks: next to nothing for who has no such lock, else 2 us a descriptor."""
    return [lock for pid in sorted(_holders() & set(pids)) for lock in _of(pid)]


def _holders() -> set[int]:
    """Whoever has any, by lines such as `1: POSIX  ADVISORY  READ 17 08:01:99 128 128` (proc_locks(5))."""
    lines = procfs.read(_LISTED).decode().splitlines()
    return {int(words[4]) for words in map(str.split, lines) if words[1] == POSIX}


def _of(pid: int) -> Iterator[MappedLock]:
    """Each once: every descriptor of a file tells of all of them."""
    known = set()
    for file in procfd.open_files(pid, procfs.mapped_files(pid)):
        for lock in file.locks:
            if lock.kind == POSIX and (file.target, lock) not in known and _can_take(file, lock):
                known.add((file.target, lock))
                yield MappedLock(pid, file.fd, lock.exclusive, lock.start, lock.size)


def _can_take(file: OpenFile, lock: HeldLock) -> bool:
    how = file.flags & os.O_ACCMODE
    return how in ((os.O_WRONLY, os.O_RDWR) if lock.exclusive else (os.O_RDONLY, os.O_RDWR))


def can_be_kept(pid: int) -> bool:
    """Whether a process's copy can be made to take them: nobody else can for it (`checkpoint.processes.lending`)."""
    try:
        return lending.can_lend(pid) and procfs.status(pid).get("Seccomp", "0") == "0"
    except OSError:
        return False


def take(kernel: Kernel, wanted: Iterable[MappedLock]) -> None:
    """Have each process of a stopped copy take its own. Blocks: some 2 ms a process. Raises AgentError LOCK_HELD."""
    for pid, ours in groupby(wanted, attrgetter("pid")):
        try:
            with Borrowed(kernel, pid, _FLOCK.size) as borrowed:
                for lock in ours:
                    _take(borrowed, lock)
        except OSError as error:
            message = f"process {pid} does not get its locks (fcntl) on files that it has mapped: {error.strerror}"
            raise AgentError(Code.LOCK_HELD, message) from error


def _take(borrowed: Borrowed, lock: MappedLock) -> None:
    kind = fcntl.F_WRLCK if lock.exclusive else fcntl.F_RDLCK
    borrowed.write(borrowed.room, _FLOCK.pack(kind, os.SEEK_SET, lock.start, lock.size, 0))
    assert lending.ABI is not None
    borrowed.call(lending.ABI.fcntl, lock.fd, fcntl.F_SETLK, borrowed.room)
