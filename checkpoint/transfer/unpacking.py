"""Where arriving parcels go: a folder of files, none of which is outside it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.parcel import Parcel, Piece

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Unpacking:
    """Of one folder; for several threads. A parcel may come twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._attempt = 0
        self._changing = threading.Lock()

    def take(self, parcel: Parcel, plain: memoryview) -> None:
        """Put a parcel's bytes into their files. Raises AgentError NO_SPACE or INTERNAL."""
        try:
            self._take(parcel, plain)
        except OSError as error:
            code = Code.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else Code.INTERNAL
            raise AgentError(code, f"the destination cannot write the images: {error.strerror}") from error

    def _take(self, parcel: Parcel, plain: memoryview) -> None:
        at = 0
        for piece in parcel.pieces:
            if (fd := self._open(parcel.attempt, piece)) is None:
                return  # of an earlier attempt: nobody wants it any more
            try:
                _write(fd, plain[at : at + piece.size], piece)
            finally:
                os.close(fd)
            at += piece.size

    def _open(self, attempt: int, piece: Piece) -> int | None:
        """Opened under the lock: what is opened for an earlier attempt is unlinked by the time a later one begins."""
        with self._changing:
            if attempt > self._attempt:
                self._attempt = attempt
                for entry in os.scandir(self._folder):
                    os.unlink(entry.path)  # noqa: PTH108
            return os.open(self._folder / piece.name, _FLAGS, 0o600) if attempt == self._attempt else None


def _write(fd: int, part: memoryview, piece: Piece) -> None:
    at, end = piece.offset, piece.offset + piece.size
    while part:
        written = os.pwrite(fd, part, at)
        at, part = at + written, part[written:]
    if piece.last:
        os.ftruncate(fd, end)
