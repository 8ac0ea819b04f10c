"""Carry along what CRIU loses of processes and threads: read at the source beside the dump, set on the stopped copy.

CRIU itself carries the scheduling policy and the nice value, limits, credentials, filters, signals and timers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from checkpoint.kernel import Kernel
from checkpoint.processes.tree import Tree, threads

FILE = "task-attributes.json"
"""A file of ours among the images: a list of `TaskAttributes`."""


class TaskAttributes(msgspec.Struct, frozen=True):
    """What one thread has that a task of CRIU's making has not: values by their names in `EVERY`."""

    tid: int
    values: dict[str, str]


class Attribute(NamedTuple):
    read: Callable[[Kernel, int], str]
    write: Callable[[Kernel, int, str], None]


def read(kernel: Kernel, tree: Tree) -> list[TaskAttributes]:
    """Of all threads of a tree: what they have and this process has not, from which CRIU and its copies inherit.

    About 20 us a thread; blocks.
    """
    usual = _values(kernel, os.getpid(), EVERY)
    found: list[TaskAttributes] = []
    for member in tree.members:
        for tid in threads(member.pid):
            values = _values(kernel, tid, EVERY if tid == member.pid else OF_A_THREAD)
            differing = {name: value for name, value in values.items() if value != usual.get(name)}
            if differing:
                found.append(TaskAttributes(tid, differing))
    return found


def write(kernel: Kernel, tree: Tree, wanted: Sequence[TaskAttributes]) -> list[str]:
    """Set them on the copy's threads, which have the same numbers; gives in words what could not be set."""
    if not wanted:  # as almost always: inside the freeze nobody has to list the threads
        return []
    known = {tid for member in tree.members for tid in threads(member.pid)}
    failed: list[str] = []
    for one in wanted:
        for name, value in one.values.items():
            try:
                if one.tid not in known:
                    raise ProcessLookupError(0, "it is not there")
                EVERY[name].write(kernel, one.tid, value)
            except OSError as error:
                failed.append(f"{name} {value} of thread {one.tid}: {error.strerror}")
    return failed


def _values(kernel: Kernel, tid: int, wanted: Mapping[str, Attribute]) -> dict[str, str]:
    """Without those that this kernel, or this machine, does not have."""
    found: dict[str, str] = {}
    for name, attribute in wanted.items():
        with suppress(OSError):
            found[name] = attribute.read(kernel, tid)
    return found


def _read_affinity(kernel: Kernel, tid: int) -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(tid))))


def _write_affinity(kernel: Kernel, tid: int, value: str) -> None:
    os.sched_setaffinity(tid, map(int, value.split(",")))


def _read_io_priority(kernel: Kernel, tid: int) -> str:
    return str(kernel.io_priority(tid))


def _write_io_priority(kernel: Kernel, tid: int, value: str) -> None:
    kernel.set_io_priority(tid, int(value))


def _in_proc(name: str, base: int = 10) -> Attribute:
    """A number in a file of /proc/TID; what is written is read with its 0x, if it has one."""

    def read(kernel: Kernel, tid: int) -> str:
        """Without pathlib: a quarter of the time."""
        file = os.open(f"/proc/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            number = int(os.read(file, 32), base)
        finally:
            os.close(file)
        return str(number) if base == 10 else hex(number)

    def write(kernel: Kernel, tid: int, value: str) -> None:
        Path(f"/proc/{tid}/{name}").write_text(value)

    return Attribute(read, write)


OF_A_THREAD = {
    "CPU affinity": Attribute(_read_affinity, _write_affinity),
    "I/O priority": Attribute(_read_io_priority, _write_io_priority),
    "timer slack": _in_proc("timerslack_ns"),
}
EVERY = OF_A_THREAD | {"core dump filter": _in_proc("coredump_filter", base=16)}
