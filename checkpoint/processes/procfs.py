"""What /proc says about a pod and about a tree, before anything is touched."""

from __future__ import annotations

import functools
import operator
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_KIB = 1024
_READ_BYTES = 4096
_CAP_SYS_RESOURCE = 24  # linux/capability.h


def thread_ids() -> list[int]:
    """Every thread id in use in this PID namespace, PID 1 included."""
    return sorted(int(tid) for pid in pids() for tid in names(f"/proc/{pid}/task"))


def pids() -> list[int]:
    """Every process of this PID namespace, those that have ended and are not reaped included."""
    return [int(name) for name in names("/proc") if name.isdigit()]


def names(folder: str) -> list[str]:
    """What a folder of /proc holds; empty when its process is gone. Strings, not Paths: this must be fast."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - a third of the time
    except (FileNotFoundError, ProcessLookupError):
        return []


def read(path: str) -> bytes:
    """A file of /proc, whole; raises OSError. Without pathlib: a quarter of the time, and a tree has many threads."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while some := os.read(file, _READ_BYTES):
            found += some
        return found
    finally:
        os.close(file)


def read_start(path: str, size: int) -> bytes:
    """No more than that of it: of some files each line takes the kernel a while. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, size)
    finally:
        os.close(file)


def link(path: str) -> str:
    """Where a link of /proc leads; "" when it is gone."""
    try:
        return os.readlink(path)  # noqa: PTH115 - four times as fast as Path.readlink
    except (FileNotFoundError, ProcessLookupError):
        return ""


def status(pid: int) -> dict[str, str]:
    """/proc/<pid>/status as a dictionary; empty when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def memory_bytes(pid: int) -> tuple[int, int]:
    """What a dump of this process would write at most: its anonymous and shared memory, its huge pages of hugetlbfs,
    and what is swapped out; and how much of that goes by the images whatever becomes of the rest: what is shared, or is
    of hugetlbfs."""
    found = status(pid)
    anonymous, shared, swapped, huge = (
        int(found.get(name, "0").split()[0]) * _KIB for name in ("RssAnon", "RssShmem", "VmSwap", "HugetlbPages")
    )
    return anonymous + shared + swapped + huge, shared + huge


def address_space_bytes(pid: int) -> int:
    """How much of its addresses a process has reserved, used or not."""
    return int(status(pid).get("VmSize", "0").split()[0]) * _KIB


@dataclass(frozen=True)
class Mount:
    """One line of /proc/<pid>/mountinfo."""

    point: str
    what: str
    """Device and the folder of it: two mounts with the same show the same files, on one machine."""
    kind: str


_ESCAPED = re.compile(r"\\(\d{3})")


def mounts(pid: int | str) -> dict[int, Mount]:
    """The mounts of a process's mount namespace by their ids; none when it is gone, or has just ended."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:  # EINVAL where there is none any more (K: proc_namespace.c, mounts_open_common)
        return {}
    found = {}
    for line in lines:
        words = line.split(" ")
        root, point = (_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), word) for word in words[3:5])
        found[int(words[0])] = Mount(point, f"{words[2]} {root}", words[words.index("-") + 1])
    return found


class FileArea(NamedTuple):
    """A part of a process's memory that is of a file, or has a name as if it were (proc_pid_maps(5))."""

    pid: int
    start: int
    end: int
    inode: int
    path: str
    written: bool = False
    """What the process writes there becomes the file's (MAP_SHARED, PROT_WRITE)."""

    @property
    def link(self) -> str:
        """Leads to the file, whatever its name is by now (proc_pid_map_files(5))."""
        return f"/proc/{self.pid}/map_files/{self.start:x}-{self.end:x}"


def file_areas(pid: int, ending: str = "") -> Iterator[FileArea]:
    """Those whose path ends so; nothing when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").split("\n")
    except OSError:
        return
    for line in lines:
        words = line.split(None, 5) if line.endswith(ending) else ()
        if len(words) == 6:
            start, end = (int(one, 16) for one in words[0].split("-"))
            yield FileArea(pid, start, end, int(words[4]), words[5], words[1][1] == "w" and words[1][3] == "s")


def mapped_files(pid: int) -> set[str]:
    """The paths of all files that a process has mapped; none when it is gone."""
    return {area.path for area in file_areas(pid)}


def mount_ids(pid: int) -> set[int]:
    """The mounts of a process's mount namespace."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    return {int(line.split()[0]) for line in lines}


def namespaces(pid: int | str) -> dict[str, int]:
    """Kind -> inode of each namespace of a process; empty when it is gone. Not `time`: it is set at the next fork."""
    found = {}
    for kind in ("net", "pid", "mnt", "ipc", "uts", "user", "cgroup"):
        try:
            found[kind] = Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
        except OSError:
            return {}
    return found


def has_time_namespaces() -> bool:
    """Whether processes can have clocks of their own here (time_namespaces(7)): so CRIU gives them back those that they
    had (criu: timens.c, prepare_timens)."""
    return Path("/proc/self/timens_offsets").exists()


def pid_max() -> int:
    """What every process id here is below."""
    return int(Path("/proc/sys/kernel/pid_max").read_text())


def has_sysv_ipc() -> bool:
    """True when this IPC namespace has a System V segment, semaphore or queue (sysvipc(7)): lines below a heading."""
    return any(len(Path(f"/proc/sysvipc/{kind}").read_text().splitlines()) > 1 for kind in ("shm", "sem", "msg"))


def owners(pid: int) -> set[tuple[int, int]]:
    """A process's users and groups: real, effective and saved, mostly the same; empty when it is gone."""
    found = status(pid)
    users, groups = found.get("Uid", "").split()[:3], found.get("Gid", "").split()[:3]
    return {(int(user), int(group)) for user, group in zip(users, groups, strict=True)}


def may_read_limits() -> bool:
    """True when this process has CAP_SYS_RESOURCE, and so may read any other's limits (prlimit(2))."""
    return bool(int(status(os.getpid())["CapEff"], 16) >> _CAP_SYS_RESOURCE & 1)


def capabilities(pid: int) -> int:
    """What a process has of them in any set but the bounding one (capabilities(7)), a bit each; 0 when it is gone."""
    found = status(pid)
    return functools.reduce(
        operator.or_, (int(found.get(f"Cap{name}", "0"), 16) for name in ("Inh", "Prm", "Eff", "Amb"))
    )


def permitted_capabilities() -> int:
    """What this process may give to another."""
    return int(status(os.getpid())["CapPrm"], 16)
