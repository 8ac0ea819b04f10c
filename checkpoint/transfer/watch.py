"""Sees CRIU write a folder of images, and says what of it can be sent (inotify(7))."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from checkpoint.core.consignment import Consignment
from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import IN_CLOSE_WRITE, IN_MODIFY, Kernel
from checkpoint.transfer.shipment import Shipment

_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 << 10
_LOOK_SECONDS = 0.002
"""A large dump writes a hundred times in a millisecond: look at what it wrote no more often than that."""


class Watch:
    """Of one folder; it must be there. Raises AgentError KERNEL."""

    def __init__(self, kernel: Kernel, folder: Path, shipment: Shipment) -> None:
        self._folder, self._shipment = folder, shipment
        try:
            self._fd = kernel.watch_folder(str(folder), IN_MODIFY | IN_CLOSE_WRITE)
        except OSError as error:
            raise AgentError(Code.KERNEL, f"{folder} cannot be watched: {error.strerror}") from error
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._fd, self._soon)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            if self._later is not None:
                self._later.cancel()
            os.close(self._fd)
            self._fd = -1

    def _soon(self) -> None:
        self._loop.remove_reader(self._fd)
        self._later = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._later = None
        seen = list(self._seen())

        def tell(consignment: Consignment) -> None:
            for name, size, closed in seen:
                (consignment.closed if closed else consignment.grown)(name, size)

        self._shipment.tell(tell)
        self._loop.add_reader(self._fd, self._soon)

    def _seen(self) -> Iterator[tuple[str, int, bool]]:
        """The files that were written since: name, size by now, whether closed."""
        masks: dict[str, int] = {}
        try:
            while raw := os.read(self._fd, _READ_BYTES):
                for mask, name in _events(raw):
                    masks[name] = masks.get(name, 0) | mask
        except BlockingIOError:
            pass
        for name, mask in masks.items():
            try:
                found = (self._folder / name).lstat()
            except FileNotFoundError:
                continue
            yield name, found.st_size, bool(mask & IN_CLOSE_WRITE)


def _events(raw: bytes) -> Iterator[tuple[int, str]]:
    """An event without a name is the folder's own, or says that the queue was too short: what is missed so is sent at
    the end."""
    at = 0
    while at < len(raw):
        _, mask, _, length = _EVENT.unpack_from(raw, at)
        at += _EVENT.size
        if name := os.fsdecode(raw[at : at + length].rstrip(b"\0")):
            yield mask, name
        at += length
