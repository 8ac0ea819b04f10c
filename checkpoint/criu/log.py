"""CRIU's log of one request: as much of it as it takes to name what went wrong, and its end, to be kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint.api import CriuLog
from checkpoint.core import causes
from checkpoint.core.errors import AgentError, Code, from_problem

KEPT_BYTES = 64 << 10
_HALF_BYTES = 512 << 10
"""As much of either end is looked through: the cause is at the beginning. A log with warnings and errors alone has some
hundred bytes as a rule."""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Whatever fails inside has the log with it."""
    try:
        yield
    except AgentError as error:
        if log := read(path):
            error.criu_log = CriuLog("", causes.quote(_text(log)))
            error.log_tail = log[-KEPT_BYTES:]
        raise


def failure(path: Path, *, restoring: bool) -> AgentError:
    """What CRIU has failed with, by its log in `path`."""
    log = read(path)
    if not log and _is_full(path):
        return AgentError(Code.NO_SPACE, "there is no space left for the images, nor for CRIU's log")
    return from_problem(causes.explain(_text(log), restoring=restoring))


def is_stuck(path: Path) -> bool:
    """Whether a task of a restore has said that it goes on no more."""
    return b": BUG at " in read(path)


def read(path: Path) -> bytes:
    """Its beginning and its end, or all of it; nothing where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if size <= 2 * _HALF_BYTES:
                return file.read(2 * _HALF_BYTES)
            beginning = file.read(_HALF_BYTES)
            file.seek(size - _HALF_BYTES)
            return beginning + b"\n" + file.read(_HALF_BYTES)
    except OSError:
        return b""


def _text(log: bytes) -> str:
    return log.decode(errors="replace")


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False
