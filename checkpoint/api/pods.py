"""A pod, what it could take in, and its workloads."""

from __future__ import annotations

from typing import Literal

import msgspec

from checkpoint.api.common import Problem


class MemoryFeatures(msgspec.Struct, frozen=True):
    """Which ways of carrying memory work here, beside stop-and-copy, which always does."""

    post_copy_bytes: int = 0
    """How much memory post-copy can carry; 0: none."""
    pre_copy: bool = False
    """The kernel tracks what a process writes."""


class Health(msgspec.Struct, frozen=True):
    version: str
    criu_version: str
    kernel: str
    architecture: str
    memory: MemoryFeatures = MemoryFeatures()


class Room(msgspec.Struct, frozen=True):
    """What the pod could still take in."""

    memory_bytes: int
    """The smaller of the machine's MemAvailable and what the pod's memory cgroup has left."""
    image_bytes: int
    """Free space where images are kept."""
    pids: list[int]
    """Thread ids in use in the pod's PID namespace."""
    listening_ports: list[int]


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
    losses: list[Problem] = []
    """Sockets that a move cannot keep; `PrepareOutbound.allow_loss` moves the rest without them."""
