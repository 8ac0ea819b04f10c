"""The agent's state file: a line for each state, the last whole one counts.

Appended to, never replaced while a workload stands still: on ext4 a rename over a file makes the kernel write it out at
once (auto_da_alloc, ext4(5)), which took 1.5 to 5.7 ms, four times in a freeze; an append takes 20 us. Not synced
either: it must outlive the agent, not the machine. A line that the agent's death cut short has no end, and the one
before it counts.
"""

from __future__ import annotations

import errno
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
        """Write a state down, whole or not at all; when this returns the agent may be killed.

        Raises OSError, where there is no room for it.
        """
        before = os.fstat(self._fd).st_size
        try:
            # A line of its own even after one that was cut short.
            _write(self._fd, b"\n" + journal.encode(content) + b"\n", self._path)
        except OSError:
            os.ftruncate(self._fd, before)
            raise

    def tidy(self, content: Journal) -> None:
        """Keep only this state where the file has grown long. Raises OSError; then the file is as it was."""
        if os.fstat(self._fd).st_size < _TIDY_BYTES:
            return
        beside = self._path.with_suffix(".new")
        fd = _open(beside, os.O_TRUNC | os.O_APPEND)
        try:
            _write(fd, journal.encode(content) + b"\n", beside)
            beside.replace(self._path)
        except OSError:
            os.close(fd)
            beside.unlink()
            raise
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _write(fd: int, raw: bytes, path: Path) -> None:
    """All of it, where write(2) alone may write as much as there is room for. Raises OSError."""
    try:
        if os.write(fd, raw) < len(raw):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        error.filename = str(path)
        raise


def _open(path: Path, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
