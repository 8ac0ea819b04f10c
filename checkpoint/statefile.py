"""The agent's state file: a line for each state, the last whole one counts.

Appended to, never replaced while a workload stands still: on ext4 a rename over a file makes the kernel write it out at
once (auto_da_alloc, ext4(5)), which took 1.5 to 5.7 ms, four times in a freeze; an append takes 20 us. Not synced
either: it must outlive the agent, not the machine. A line that the agent's death cut short has no end, and the one
before it counts.
"""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.core import journal
from checkpoint.core.journal import Journal

_TIDY_BYTES = 4 << 20
"""A line is about 1 kB and a migration writes six: this is a long time."""


class StateFile:
    """Owns the open file. `tidy` is for quiet moments, `save` for any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = _open(path, os.O_APPEND)

    def load(self) -> Journal:
        """The last state that was written whole; an empty journal where there is none."""
        for line in reversed(self._path.read_bytes().split(b"\n")[:-1]):
            if (found := journal.decode(line)) is not None:
                return found
        return Journal()

    def save(self, content: Journal) -> None:
        """Write a state down; when this returns the agent may be killed."""
        # A line of its own even after one that was cut short.
        os.write(self._fd, b"\n" + journal.encode(content) + b"\n")

    def tidy(self, content: Journal) -> None:
        """Keep only this state where the file has grown long."""
        if os.fstat(self._fd).st_size < _TIDY_BYTES:
            return
        beside = self._path.with_suffix(".new")
        fd = _open(beside, os.O_TRUNC | os.O_APPEND)
        os.write(fd, journal.encode(content) + b"\n")
        beside.replace(self._path)
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _open(path: Path, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
