"""A pod's memory limit, by whichever version of control groups this machine has."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import msgspec

from controller.lab.errors import NoMemoryLimit

EMPTY_DEADLINE_SECONDS = 2.0
"""A killed process leaves its group a moment after it has ended; nothing wakes us then in version 1."""


class Controller(msgspec.Struct, frozen=True):
    """Where memory groups are made, and what their limit is called there."""

    root: Path
    version: int

    @property
    def limit_file(self) -> str:
        return "memory.limit_in_bytes" if self.version == 1 else "memory.max"


def find(mounts: str) -> Controller | None:
    """The memory controller among the mounts (the text of /proc/self/mounts); None when there is none."""
    for line in mounts.splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            return Controller(Path(point), 1)
        if kind == "cgroup2" and "memory" in _read(Path(point) / "cgroup.controllers").split():
            return Controller(Path(point), 2)
    return None


def place(name: str) -> Path:
    """Where the group of that name would be: below the root of the hierarchy. Raises NoMemoryLimit."""
    return _controller().root / name


def create(group: Path, memory_bytes: int) -> None:
    """Makes the group, limited to `memory_bytes`. Raises NoMemoryLimit."""
    create_in(_controller(), group, memory_bytes)


def create_in(controller: Controller, group: Path, memory_bytes: int) -> None:
    """Likewise, in a given hierarchy."""
    try:
        if controller.version == 2:
            (controller.root / "cgroup.subtree_control").write_text("+memory")
        group.mkdir(exist_ok=True)
        (group / controller.limit_file).write_text(str(memory_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise NoMemoryLimit(f"the memory limit cannot be set: {error}") from error


def remove(group: Path, deadline_seconds: float = EMPTY_DEADLINE_SECONDS) -> None:
    """Removes an empty group, if it is there; waits for its last processes to have left it. Raises OSError."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _controller() -> Controller:
    controller = find(Path("/proc/self/mounts").read_text())
    if controller is None:
        raise NoMemoryLimit("this machine has no memory controller (cgroup)")
    return controller


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
