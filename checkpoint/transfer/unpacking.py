"""Where arriving parcels go: a folder of files, none of which is outside it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.parcel import Parcel, Piece
from checkpoint.transfer.reserve import Reserve

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
"""What is written is read where it goes on in the reserve's file."""


class Unpacking:
    """Of one folder; for several threads. A parcel may come twice.

    Nobody takes the files' room ahead by fallocate(2): tmpfs then has large pages, which are cleared before they are
    written, and which a hypervisor that takes back what is free has to give even then. A GiB came at 0.13 to 0.16 GB/s,
    without it at 0.45. Memory that was written before is another matter: see `Reserve`.
    """

    def __init__(self, folder: Path, reserve: Reserve | None = None) -> None:
        self._folder, self._reserve = folder, reserve
        self._attempt = 0
        self._turn = threading.Lock()
        """Whose it is may write. The kernel lets one at a time write to a file, and whoever waits for that spins (K:
        rwsem.c): on a processor that the other threads need."""

    def take(self, parcel: Parcel, slices: Iterable[memoryview]) -> None:
        """Put a parcel's bytes, which come as they come, into their files; of an earlier attempt nobody wants them any
        more. Raises AgentError NO_SPACE or INTERNAL, and what `slices` raises."""
        body = _Body(slices)
        for piece in parcel.pieces:
            self._put(parcel.attempt, piece, body)

    def _put(self, attempt: int, piece: Piece, body: _Body) -> None:
        part = body.next(piece.size)  # before there is a file: of a short parcel that is cut off nothing is seen
        image = self._open(attempt, piece.name)
        try:
            at, end = piece.offset, piece.offset + piece.size
            while at < end:
                self._write(image, part, at)
                at += len(part)
                part = body.next(end - at)
            if piece.last:
                self._cut_off(image, end)
        finally:
            if image is not None:
                os.close(image.fd)

    def _open(self, attempt: int, name: str) -> _Image | None:
        with _told(), self._turn:
            if attempt > self._attempt:
                self._begin_anew(attempt)
            if attempt < self._attempt:
                return None
            path = self._folder / name
            return _Image(attempt, path, os.open(path, _FLAGS, 0o600))

    def _begin_anew(self, attempt: int) -> None:
        self._attempt = attempt
        for entry in os.scandir(self._folder):
            os.unlink(entry.path)  # noqa: PTH108
        if self._reserve is not None:
            self._reserve.emptied()

    def _write(self, image: _Image | None, part: memoryview, at: int) -> None:
        with _told(), self._turn:
            if image is None or image.attempt < self._attempt:
                return
            fd = image.fd
            if self._reserve is not None:
                fd = self._reserve.room(image.path, fd, at + len(part), len(part))
            _write(fd, part, at)

    def _cut_off(self, image: _Image | None, end: int) -> None:
        with _told(), self._turn:
            if image is None or image.attempt < self._attempt:
                return
            if self._reserve is not None and self._reserve.has_become(image.path):
                return  # others get what is behind it, until all has come
            os.ftruncate(image.fd, end)


class _Image(NamedTuple):
    """An open file, of one attempt: what is opened for an earlier one is unlinked by the time a later one begins."""

    attempt: int
    path: Path
    fd: int


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
