"""Whether the freeze fits into the hold: what is known of it before it begins. Pure.

A limit on the bytes a second is certain, and so is how many bytes there are; only how far they can be compressed is
not, and how many pages are all zeros. What is predicted from moves before is a measurement, of a machine that may have
been busy. So each has a margin: past it the move is refused, for nothing but a rollback could come of it; short of it
a person is warned.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from checkpoint.api import Problem
from controller.core.choose import LATE_BYTES, Choice
from controller.core.plan import Plan
from controller.core.transfer import Transfer
from controller.core.units import byte_text, duration_text

DEFAULT_SECONDS = 10.0
"""`--max-hold`, where nothing is said: peers notice nothing worse than a slow answer."""

SQUEEZED = 20.0
"""Images are compressed where the wire is slow: an empty Redis to a ninth, memory that is in use to a third, say."""

SPARSE = 4.0
"""Of memory that goes from process to process, pages that are all zeros stay behind: rarely three quarters."""

MISJUDGED = 10.0
"""What was measured on a machine that was very busy is wrong by this factor at most."""


class Finding(NamedTuple):
    problem: Problem
    certain: bool
    """The freeze does not fit, whatever was misjudged."""


def judged(plan: Plan, transfer: Transfer, hold_seconds: float, *, direct: bool) -> Plan:
    """The plan with what is to be said of its freeze, among its problems or its warnings. `direct`: the images go from
    agent to agent, as far as it is known; that they do, or that pre-copy is in vain, may be found out later."""
    assert plan.memory is not None
    rate = transfer.bytes_per_second
    found = _limited(plan, plan.memory, rate, hold_seconds) if direct and rate else None
    found = found or predicted(plan.memory, hold_seconds)
    if found is None:
        return plan
    if found.certain:
        return msgspec.structs.replace(plan, problems=[*plan.problems, found.problem])
    return msgspec.structs.replace(plan, warnings=[*plan.warnings, found.problem])


def predicted(choice: Choice, hold_seconds: float) -> Finding | None:
    """What moves have taken, or the machine was seen to do, beside the hold."""
    seconds = choice.freeze_seconds
    if seconds <= hold_seconds:
        return None
    hold = duration_text(hold_seconds)
    message = f"the freeze is predicted to take {duration_text(seconds)}, and --max-hold is {hold}"
    return Finding(_too_long(choice, message, "raise --max-hold"), seconds > MISJUDGED * hold_seconds)


def _limited(plan: Plan, choice: Choice, rate: float, hold_seconds: float) -> Finding | None:
    straight, images = _inside(plan, choice)
    fits, size, hold = rate * hold_seconds, straight + images, duration_text(hold_seconds)
    if size > fits:
        message = (
            f"at {byte_text(rate)} a second the {byte_text(size)} that travel inside the freeze take "
            f"{duration_text(size / rate)}, and --max-hold is {hold}"
        )
    elif choice.early_bytes and plan.memory_bytes > fits:
        message = (
            f"at {byte_text(rate)} a second the memory is sent ahead in {duration_text(plan.memory_bytes / rate)}; "
            f"if more than {byte_text(fits)} of it change meanwhile, they do not fit into --max-hold {hold}"
        )
    else:
        return None
    certain = straight / SPARSE + images / SQUEEZED > fits
    return Finding(_too_long(choice, message, "raise --transfer-rate or --max-hold"), certain)


def _inside(plan: Plan, choice: Choice) -> tuple[int, int]:
    """How many bytes travel inside the freeze for all that is known: from process to process, and by images."""
    ghosts = sum(one.size_bytes for one in plan.files.deleted)
    if choice.way == "stop-and-copy" and not choice.goes_straight:
        return 0, plan.memory_bytes + ghosts
    always = min(plan.memory_bytes, LATE_BYTES) + ghosts
    if choice.way == "pre-copy":  # what is left after the rounds is not known
        return 0, always
    if choice.way == "post-copy":
        return 0, always + plan.shared_bytes
    return max(0, plan.memory_bytes - plan.shared_bytes - choice.early_bytes), always + plan.shared_bytes


def _too_long(choice: Choice, message: str, hint: str) -> Problem:
    later = any(one.way == "post-copy" and one.freeze_seconds < choice.freeze_seconds for one in choice.others)
    return Problem("hold-too-short", message, "request", f"{hint}, or choose --memory post-copy" if later else hint)
