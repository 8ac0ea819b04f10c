"""What /proc says about a pod and about a tree, before anything is touched."""

from __future__ import annotations

import functools
import ipaddress
import operator
import os
import re
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from checkpoint.core import readdress

_KIB = 1024
_READ_BYTES = 4096
_EVERY_HOSTS = {"224.0.0.1", "224.0.0.2", "ff01::1", "ff02::1", "ff01::2", "ff02::2", "ff05::2"}
_INFO_BYTES, _FLAGS = 512, b"flags:\t"
_LIST_BYTES = 1 << 20
_CAP_SYS_RESOURCE = 24  # linux/capability.h


@dataclass(frozen=True)
class SocketLine:
    """One line of /proc/<pid>/net/tcp, tcp6, udp or udp6 (proc_pid_net(5))."""

    local: tuple[str, int]
    peer: tuple[str, int]
    state: int
    ino: int


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


def tcp_lines(pid: int | str = "self") -> Iterator[SocketLine]:
    """Every TCP socket of a process's network namespace."""
    return _socket_lines(pid, "tcp", "tcp6")


def udp_lines(pid: int | str = "self") -> Iterator[SocketLine]:
    """Every UDP socket of it that has a port; of one that is not connected the peer's is 0."""
    return _socket_lines(pid, "udp", "udp6")


def _socket_lines(pid: int | str, *kinds: str) -> Iterator[SocketLine]:
    for name in kinds:
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            parts = line.split()
            yield SocketLine(_end(parts[1]), _end(parts[2]), int(parts[3], 16), int(parts[9]))


def _end(text: str) -> tuple[str, int]:
    address, port = text.split(":")
    words = [int.from_bytes(bytes.fromhex(address[at : at + 8]), "big") for at in range(0, len(address), 8)]
    return readdress.host_of(words), int(port, 16)


def joined_groups(pid: int | str = "self") -> list[str]:
    """The multicast groups that sockets of a process's network namespace have joined: not those that every host is in
    (all nodes, all routers, its own solicited-node groups)."""
    found = set()
    for name, version in (("igmp", 4), ("igmp6", 6)):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            words = line.split()
            raw = words[2:3] if version == 6 else words[:1] if line.startswith("\t\t") else []
            found |= {_group(word, version) for word in raw}
    return sorted(found - _EVERY_HOSTS - {host for host in found if host.startswith("ff02::1:ff")})


def _group(word: str, version: int) -> str:
    raw = bytes.fromhex(word)
    return str(ipaddress.ip_address(raw if version == 6 else raw[::-1] if sys.byteorder == "little" else raw))


def listening_ports() -> list[int]:
    return sorted({line.local[1] for line in tcp_lines() if line.state == readdress.LISTEN})


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
    for name in names(f"/proc/{pid}/fd"):
        target = link(f"/proc/{pid}/fd/{name}")
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
