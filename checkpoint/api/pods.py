"""A pod, what it could take in, and its workloads."""

from __future__ import annotations

from typing import Literal

import msgspec

from checkpoint.api.common import Problem


class MemoryFeatures(msgspec.Struct, frozen=True):
    """Which ways of carrying memory work here, beside stop-and-copy, which always does."""

    post_copy_bytes: int = 0
    """How much memory post-copy can carry; 0: none."""
    pre_copy_bytes: int = 0
    """The same of pre-copy; 0: the kernel does not track what a process writes."""
    tells_pages: bool = False
    """The kernel says which pages a process has: without that none of it is sent before the freeze."""


class Health(msgspec.Struct, frozen=True):
    version: str
    criu_version: str
    kernel: str
    architecture: str
    memory: MemoryFeatures = MemoryFeatures()
    cpu_features: list[str] = []
    """The instruction-set extensions that a program may find here."""
    uptime_seconds: float = 0.0
    """CLOCK_BOOTTIME, now: workloads see that, and CLOCK_MONOTONIC."""
    capabilities: int = (1 << 64) - 1
    """The agent's permitted ones (capabilities(7)), a bit each: it can give no other to what it restores."""
    keeps_clocks: bool = True
    """Whether a workload that arrives keeps the clocks that it had (time_namespaces(7))."""


class Room(msgspec.Struct, frozen=True):
    """What the pod could still take in."""

    memory_bytes: int
    """The smaller of the machine's MemAvailable and what the pod's memory cgroup has left."""
    image_bytes: int
    """Free space where images are kept."""
    pids: list[int]
    """Thread ids in use in the pod's PID namespace."""
    listening_ports: list[int]
    own_root: bool = False
    mounts: dict[str, str] = {}
    """What is mounted where (`OpenMount.what` by `OpenMount.point`)."""
    file_bytes: int = 1 << 62
    """Free space on the pod's root."""
    pid_max: int = 1 << 22
    """The process ids here are below that (proc_sys_kernel(5))."""
    huge_bytes: dict[int, int] = {}
    """What hugetlbfs could still give, by the size of its pages."""
    most_descriptors: int = 1 << 30
    """A copy's are numbered below that."""


class RunWorkload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    argv: list[str]
    environment: dict[str, str] = {}
    directory: str = "/"


class Workload(msgspec.Struct, frozen=True):
    name: str
    pid: int
    argv: list[str]
    state: Literal["running", "stopped", "exited"]
    migration: str = ""
    """The migration that holds it, or "" while none."""
    arrived_by: str = ""
    """The migration that brought it here, or "" when it was started here."""
    cpu_features: list[str] = []
    """What it found of the processor when it was started; none: what there is here."""


class Ground(msgspec.Struct, frozen=True):
    """A folder whose files travel: "/" is what the pod has written in a root of its own."""

    path: str
    files: int
    size_bytes: int
    deleted: int
    """Files of the machine's, or that had come with the workload, that are deleted where it arrives."""
    left: list[str] = []
    """Some of the sockets and devices in it, which do not travel."""
    left_count: int = 0


class DeletedFile(msgspec.Struct, frozen=True):
    """One that is open and has no name any more: it travels inside the freeze, among the images."""

    path: str
    size_bytes: int


class OpenMount(msgspec.Struct, frozen=True):
    """A file system beside the root on which the workload has a file open."""

    point: str
    what: str
    """The same in another pod of the machine: it is shared."""
    file: str


class FileLock(msgspec.Struct, frozen=True):
    """An exclusive lock on a file that has a name: a copy gets it only where it opens another file."""

    file: str
    kind: str
    """What it was taken with: "flock", "fcntl" or "F_OFD_SETLK"."""
    point: str
    """Where the file's file system is mounted: "/" is the pod's root."""
    what: str
    """As in `OpenMount`."""


class Belongings(msgspec.Struct, frozen=True):
    """What of files belongs to a workload."""

    own_root: bool = False
    grounds: list[Ground] = []
    deleted: list[DeletedFile] = []
    mounts: list[OpenMount] = []
    locks: list[FileLock] = []


class Inspection(msgspec.Struct, frozen=True):
    """A workload, looked at before it is touched."""

    workload: Workload
    pids: list[int]
    """Every thread id of the tree: they must be free at the destination."""
    memory_bytes: int
    """Anonymous and shared memory that a dump would write."""
    connections: int
    listening_ports: list[int]
    problems: list[Problem]
    """What is known already to make a move fail."""
    belongings: Belongings = Belongings()
    losses: list[Problem] = []
    """Sockets that a move cannot keep; `PrepareOutbound.allow_loss` moves the rest without them."""
    shared_bytes: int = 0
    """How much of the memory is shared: it goes by the images whatever becomes of the rest."""
    processes: int = 1
    no_post_copy: str = ""
    """Why its memory cannot be left behind for a while, in a sentence; "": it can."""
    capabilities: int = 0
    """What the tree's processes have of them (capabilities(7)), a bit each."""
    warnings: list[Problem] = []
    """What does not make a move fail, and its owner should know."""
    huge_bytes: dict[int, int] = {}
    """What a copy will ask hugetlbfs for, by the size of its pages."""
    highest_descriptor: int = -1
