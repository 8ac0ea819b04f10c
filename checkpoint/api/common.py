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


class ErrorBody(msgspec.Struct, frozen=True):
    error: Problem
