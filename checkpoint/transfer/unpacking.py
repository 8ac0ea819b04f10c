"""Where arriving parcels go: a folder of files, none of which is outside it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.parcel import Parcel, Piece
from checkpoint.transfer.reserve import Reserve

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Unpacking:
    """Of one folder; for several threads. A parcel may come twice.

    Nobody takes the files' room ahead by fallocate(2): tmpfs then has large pages, which are cleared before they are
    written, and which a hypervisor that takes back what is free has to give even then. A GiB came at 0.13 to 0.16 GB/s,
    without it at 0.45. Memory that was written before is another matter: see `Reserve`.
    """

    def __init__(self, folder: Path, reserve: Reserve | None = None) -> None:
        self._folder, self._reserve = folder, reserve
        self._attempt = 0
        self._changing = threading.Lock()
        self._writing = threading.Lock()
        """The kernel lets one at a time write to a file, and whoever waits for that spins (K: rwsem.c): on a processor
        that the other threads need."""

    def take(self, parcel: Parcel, slices: Iterable[memoryview]) -> None:
        """Put a parcel's bytes, which come as they come, into their files; of an earlier attempt nobody wants them any
        more. Raises AgentError NO_SPACE or INTERNAL, and what `slices` raises."""
        body = _Body(slices)
        for piece in parcel.pieces:
            self._put(parcel.attempt, piece, body)

    def _put(self, attempt: int, piece: Piece, body: _Body) -> None:
        part = body.next(piece.size)  # before there is a file: of a short parcel that is cut off nothing is seen
        with _told():
            fd = self._open(attempt, piece)
        try:
            at, end = piece.offset, piece.offset + piece.size
            while at < end:
                if fd is not None:
                    with _told(), self._writing:
                        self._make_room(len(part))
                        _write(fd, part, at)
                at += len(part)
                part = body.next(end - at)
            if fd is not None and piece.last:
                with _told():
                    os.ftruncate(fd, end)
        finally:
            if fd is not None:
                os.close(fd)

    def _make_room(self, size: int) -> None:
        if self._reserve is not None:
            self._reserve.spend(size)

    def _open(self, attempt: int, piece: Piece) -> int | None:
        """Opened under the lock: what is opened for an earlier attempt is unlinked by the time a later one begins."""
        with self._changing:
            if attempt > self._attempt:
                self._attempt = attempt
                for entry in os.scandir(self._folder):
                    os.unlink(entry.path)  # noqa: PTH108
            return os.open(self._folder / piece.name, _FLAGS, 0o600) if attempt == self._attempt else None


class _Body:
    """The bytes behind a parcel's table, cut as its pieces are."""

    def __init__(self, slices: Iterable[memoryview]) -> None:
        self._slices = iter(slices)
        self._rest = memoryview(b"")

    def next(self, most: int) -> memoryview:
        """The next bytes, `most` of them or less; none only where none are wanted."""
        if most and not self._rest:
            self._rest = next(self._slices)
        part, self._rest = self._rest[:most], self._rest[most:]
        return part


@contextmanager
def _told() -> Iterator[None]:
    """Says an OSError of the folder's as an AgentError."""
    try:
        yield
    except OSError as error:
        code = Code.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else Code.INTERNAL
        raise AgentError(code, f"the destination cannot write the images: {error.strerror}") from error


def _write(fd: int, part: memoryview, at: int) -> None:
    while part:
        written = os.pwrite(fd, part, at)
        at, part = at + written, part[written:]
