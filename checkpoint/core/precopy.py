"""Pre-copy: memory is copied while the workload runs, round after round, each what was written since the last. Pure.

Needs a kernel that tracks writes (CONFIG_MEM_SOFT_DIRTY; CRIU's feature `mem_track`). When to stop is decided here, by
what the rounds took; `checkpoint.moves.rounds` asks CRIU for them.

A round writes what the workload wrote during the one before it. If the next one, inside the freeze, would be short
enough, it is time; if the workload writes about as fast as a round copies, no number of rounds will help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from checkpoint.api import Next, PreDumped
from checkpoint.core.options import Option

LOG = "pre-dump.log"
FIRST_ROUND_RATIO = 0.5
"""Rounds that did not at least halve the freeze were not worth what they cost."""

_MOMENT = 1e-6


@dataclass(frozen=True)
class Round:
    """One pre-dump: what it wrote, and how long it took."""

    written_bytes: int
    seconds: float


@dataclass(frozen=True)
class Limits:
    base_seconds: float = 0.1
    """What a freeze takes though everything was copied before: above all the restore."""
    rounds: int = 8
    left_seconds: float = 0.15
    """What is left to copy is short enough."""
    dirty_ratio: float = 0.8
    """The workload may write this much of what a round copies in the same time; more does not converge."""


@dataclass(frozen=True)
class Decision:
    what: Next
    reason: str
    freeze_seconds: float
    """What the freeze would be if it came now."""


def decide(rounds: Sequence[Round], limits: Limits) -> Decision:
    """What to do after these rounds; there must be one at least."""
    copied_per_second = max(map(_rate, rounds))
    dirtied_per_second = _dirtied_per_second(rounds)
    left = dirtied_per_second * rounds[-1].seconds / copied_per_second if copied_per_second else 0.0
    freeze = limits.base_seconds + left
    if len(rounds) > 1 and left <= limits.left_seconds:
        return Decision("freeze", "what is left is short enough", freeze)
    if len(rounds) > 1 and dirtied_per_second > limits.dirty_ratio * copied_per_second:
        return Decision("fall-back", "the workload writes about as fast as a round copies", freeze)
    if len(rounds) < limits.rounds:
        return Decision("another-round", "there is more to copy", freeze)
    if freeze <= FIRST_ROUND_RATIO * (limits.base_seconds + rounds[0].seconds):
        return Decision("freeze", f"after {limits.rounds} rounds, that is all that can be had", freeze)
    return Decision("fall-back", f"{limits.rounds} rounds made the freeze hardly shorter", freeze)


def answer(rounds: Sequence[Round], limits: Limits) -> PreDumped:
    """What is said of the last of these rounds."""
    found, last = decide(rounds, limits), rounds[-1]
    return PreDumped(len(rounds), last.written_bytes, last.seconds, found.what, found.reason, found.freeze_seconds)


def _rate(one: Round) -> float:
    """How fast it copied: the best one tells, for what each round takes besides counts for much in a small one."""
    return one.written_bytes / max(one.seconds, _MOMENT)


def _dirtied_per_second(rounds: Sequence[Round]) -> float:
    """How fast the workload writes; after the first round nothing is known, and the worst is supposed."""
    before, last = rounds[-2:] if len(rounds) > 1 else (rounds[0], rounds[0])
    return last.written_bytes / max(before.seconds, _MOMENT)


def pre_dump(pid: int, images: str, work_fd: int, parent: str = "") -> dict[str, Option]:
    """Options of one round: criu_opts by name, as in `options`. `parent` is the round before, relative to `images`."""
    wanted: dict[str, Option] = {
        "images_dir_fd": -1, "images_dir": images, "work_dir_fd": work_fd, "pid": pid, "track_mem": True,
        "tcp_established": True, "log_level": 2, "log_file": LOG,
    }  # fmt: skip
    return wanted | after(parent) if parent else wanted


def after(parent: str) -> dict[str, Option]:
    """What the dump inside the freeze says besides: only what was written since the round in `parent`."""
    return {"track_mem": True, "parent_img": parent}
