"""What /proc says of the descriptors of a process: /proc/<pid>/fd and fdinfo (proc_pid_fdinfo(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from checkpoint.processes import procfs

_INFO_BYTES, _FLAGS = 512, b"flags:\t"
_LIST_BYTES = 1 << 20


@dataclass(frozen=True)
class HeldLock:
    kind: str
    """As the kernel names it: FLOCK, POSIX, OFDLCK, LEASE or DELEG."""
    exclusive: bool
    start: int = 0
    size: int = 0
    """0: to the end, however far that is."""


@dataclass(frozen=True)
class OpenFile:
    """One descriptor of a process: what it leads to, and the mount it was opened on."""

    pid: int
    fd: int
    target: str
    mount: int
    locks: tuple[HeldLock, ...]
    """The file locks that are held through it (proc_pid_fdinfo(5), `lock:`)."""
    terminal: int
    """The number of the terminal whose master it is, or -1 (`tty-index:`)."""
    flags: int = 0
    """As open(2) takes them (`flags:`)."""


class Descriptor(NamedTuple):
    flags: int
    """Of open(2), but for O_CLOEXEC."""
    close_on_exec: bool


def descriptor(pid: int, fd: int) -> Descriptor:
    """Of /proc/<pid>/fdinfo/<fd> (proc_pid_fdinfo(5)) what is there of any file. Raises OSError. Takes about 6 us."""
    flags = _flags_in(_descriptor_info(pid, fd))
    return Descriptor(flags & ~os.O_CLOEXEC, bool(flags & os.O_CLOEXEC))


def descriptor_lines(pid: int, fd: int) -> list[str]:
    """All of /proc/<pid>/fdinfo/<fd>; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
    except OSError:
        return []


def has_descriptors_queued(pid: int, fd: int) -> bool:
    """Whether a unix socket has some in its receive queue (SCM_RIGHTS, unix(7)); where the kernel does not say (before
    Linux 5.10) it may. Raises OSError."""
    return b"\nscm_fds: 0\n" not in _descriptor_info(pid, fd)


class DescriptorFlags:
    """Of many descriptors, one after the other: about 9 us each."""

    def __init__(self) -> None:
        self._folders: dict[int, int] = {}

    def closed_on_exec(self, pid: int, fd: int) -> bool:
        """Raises OSError."""
        if pid not in self._folders:
            self._folders[pid] = os.open(f"/proc/{pid}/fdinfo", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return _flags_in(_read_start(str(fd), self._folders[pid])) & os.O_CLOEXEC != 0

    def close(self) -> None:
        for folder in self._folders.values():
            os.close(folder)
        self._folders.clear()


def _descriptor_info(pid: int, fd: int) -> bytes:
    return _read_start(f"/proc/{pid}/fdinfo/{fd}")


def _read_start(path: str, folder: int | None = None) -> bytes:
    info = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(info, _INFO_BYTES)
    finally:
        os.close(info)


def _flags_in(text: bytes) -> int:
    start = text.index(_FLAGS) + len(_FLAGS)
    return int(text[start : text.index(b"\n", start)], 8)


def descriptor_limit(pid: int) -> int:
    """How many a process may have open (RLIMIT_NOFILE, proc_pid_limits(5)); it may have more. Raises OSError."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)
    return int(found[1]) if found else 0


def watched(pid: int, fd: int) -> list[bytes]:
    """The lines of an epoll's fdinfo that say what it watches. Raises OSError."""
    lists = open_watched(pid, fd)
    try:
        return watched_again(lists)
    finally:
        os.close(lists)


def open_watched(pid: int, fd: int) -> int:
    """The fdinfo of an epoll, for `watched_again`. The caller closes it. Raises OSError."""
    return os.open(f"/proc/{pid}/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def watched_again(lists: int) -> list[bytes]:
    """As `watched`, at any time. 0.8 us each, the first time 1.8. Raises OSError."""
    os.lseek(lists, 0, os.SEEK_SET)
    text = b"".join(iter(lambda: os.read(lists, _LIST_BYTES), b""))
    return [line for line in text.split(b"\n") if line.startswith(b"tfd:")]


def open_files(pid: int, targets: Container[str] | None = None) -> Iterator[OpenFile]:
    """`targets`: only those that lead there."""
    for name in procfs.names(f"/proc/{pid}/fd"):
        target = procfs.link(f"/proc/{pid}/fd/{name}")
        if targets is not None and target not in targets:
            continue
        try:
            info = Path(f"/proc/{pid}/fdinfo/{name}").read_text()
        except OSError:
            continue
        mount, terminal = _number(info, "mnt_id:"), _number(info, "tty-index:")
        yield OpenFile(pid, int(name), target, mount, tuple(_locks(info)), terminal, _number(info, "flags:", 8))


def _locks(info: str) -> Iterator[HeldLock]:
    """Of lines such as `lock:\t1: POSIX  ADVISORY  WRITE 17 08:01:99 0 EOF`."""
    for line in info.splitlines():
        words = line.split()
        if line.startswith("lock:") and len(words) > 8:
            start, end = int(words[7]), words[8]
            yield HeldLock(words[2], words[4] != "READ", start, 0 if end == "EOF" else int(end) + 1 - start)


def _number(info: str, name: str, base: int = 10) -> int:
    """A number of a fdinfo, or -1."""
    return next((int(line.split()[1], base) for line in info.splitlines() if line.startswith(name)), -1)
