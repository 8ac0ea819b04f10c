"""Sees the files of a folder being written (inotify(7))."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel

_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 << 10
_LOOK_SECONDS = 0.002
"""A large dump writes a hundred times in a millisecond: look at what it wrote no more often than that."""


class FolderWatch:
    """Of one folder; it must be there."""

    def __init__(self, kernel: Kernel, folder: Path, mask: int, seen: Callable[[Mapping[str, int]], None]) -> None:
        """`seen` is told which files something has happened to, and what: of the `mask` (IN_…) the bits.

        Raises AgentError KERNEL.
        """
        try:
            self._fd = kernel.watch_folder(str(folder), mask)
        except OSError as error:
            raise AgentError(Code.KERNEL, f"{folder} cannot be watched: {error.strerror}") from error
        self._seen = seen
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._fd, self._soon)

    def look(self) -> None:
        """Tell now what has happened by now."""
        if self._fd >= 0 and (masks := self._masks()):
            self._seen(masks)

    def close(self) -> None:
        """Tell nothing more. The kernel takes 3 to 15 ms to close it (K: fsnotify/group.c waits for a grace period of
        SRCU), and nobody waits for that."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            if self._later is not None:
                self._later.cancel()
            self._loop.run_in_executor(None, os.close, self._fd)
            self._fd = -1

    def _soon(self) -> None:
        self._loop.remove_reader(self._fd)
        self._later = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._later = None
        self.look()
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._soon)

    def _masks(self) -> dict[str, int]:
        masks: dict[str, int] = {}
        try:
            while raw := os.read(self._fd, _READ_BYTES):
                for mask, name in _events(raw):
                    masks[name] = masks.get(name, 0) | mask
        except BlockingIOError:
            pass
        return masks


def _events(raw: bytes) -> Iterator[tuple[int, str]]:
    """An event without a name is the folder's own, or says that the queue was too short: what is missed so is found at
    the end."""
    at = 0
    while at < len(raw):
        _, mask, _, length = _EVENT.unpack_from(raw, at)
        at += _EVENT.size
        if name := os.fsdecode(raw[at : at + length].rstrip(b"\0")):
            yield mask, name
        at += length
