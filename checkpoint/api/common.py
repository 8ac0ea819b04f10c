"""What every answer of the agent may have in it."""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_BODY_BYTES = 32 << 20


Fault = Literal["request", "workload", "pod", "machine", "midstream"]


class Problem(msgspec.Struct, frozen=True):
    """What went wrong, whose fault it is, and what to do about it."""

    code: str
    message: str
    fault: Fault
    hint: str = ""


class CriuLog(msgspec.Struct, frozen=True):
    """What is kept of CRIU's log of a step that failed: file names and numbers, nothing of anybody's memory."""

    path: str
    """Where its end is, 0600, beside the agent that kept it; "" where it could not be written."""
    lines: list[str]
    """Its first warnings and errors (`checkpoint.core.causes.quote`)."""


class ErrorBody(msgspec.Struct, frozen=True):
    error: Problem
    criu_log: CriuLog | None = None
    """Where CRIU has failed."""
