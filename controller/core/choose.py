"""Which way a workload's memory goes, by how long each would take (`controller.core.predict`). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

import msgspec

from checkpoint.api import MemoryFeatures, MemoryWay, Problem
from controller.core.predict import Prediction, Rates, Size, predict, without_memory

Wanted = Literal["auto", "stop-and-copy", "post-copy", "pre-copy"]
"""What a person may ask for."""

SHORT_FREEZE_SECONDS = 0.25
"""A freeze that nobody has to shorten: for less than this the memory goes inside it, and the source is needed no more
after the commit."""

STRAIGHT_BYTES = 32 << 20
"""From here on what images of the memory cost is more than two processes more, which are started before the freeze."""

EARLY_BYTES = 64 << 20
"""From here on memory that goes straight is sent before the freeze: of less, the freeze is not shortened by more than
the digits that are shown of it."""

EARLY_SPARE_BYTES = 64 << 20
"""What the destination keeps free beside both: it is not the only one that needs memory there."""

LATE_BYTES = 1 << 20
"""What goes inside the freeze though the memory goes before or after it: changed pages of files, above all."""


class Choice(msgspec.Struct, frozen=True):
    """The way chosen, what it will take, what the other would have, and what to know before."""

    way: MemoryWay
    freeze_seconds: float
    total_seconds: float
    others: list[Prediction] = []
    reason: str = ""
    risk: str = ""
    """What can go wrong this way that cannot another; "": nothing."""
    fallback: MemoryWay | None = None
    """Of pre-copy: how it goes where rounds get nowhere."""
    fell_back: str = ""
    """Why it is not pre-copy, which was asked for or begun."""
    straight: bool = False
    """Both agents can have it go from process to process, through no image, and it is enough for that."""
    early_limit_bytes: int = 0
    """What the destination has room for before the freeze; 0: too little."""

    @property
    def goes_straight(self) -> bool:
        """Where the agents do not see one folder, inside the freeze."""
        return self.straight and self.way == "stop-and-copy"

    @property
    def early_bytes(self) -> int:
        """So much of what goes straight may be sent before the freeze."""
        return self.early_limit_bytes if self.goes_straight else 0


def of_checkpoint(size: Size, rates: Rates) -> Choice:
    """Of a checkpoint: a dump without a restore is half of what a move by stop-and-copy stands still for."""
    one = predict("stop-and-copy", size, rates)
    return Choice(one.way, one.freeze_seconds / 2, one.total_seconds)


def choose(
    wanted: Wanted, size: Size, rates: Rates, features: MemoryFeatures, room_bytes: int = 0, *,
    direct: bool = False, limit_bytes_per_second: float = 0.0, no_post_copy: str = "",
) -> tuple[Choice, list[Problem]]:  # fmt: skip
    """The way to take, and what stands in the way of the one that was asked for.

    `room_bytes`: the destination's memory; 0: not known. `direct`: it is known that images go from agent to agent, and
    no faster than the limit; 0: there is none. `no_post_copy`: why this workload's memory cannot be fetched afterwards.
    """
    memory_bytes = size.memory_bytes
    if no_post_copy:
        features = msgspec.structs.replace(features, post_copy_bytes=0)
    straight = STRAIGHT_BYTES <= memory_bytes <= features.post_copy_bytes
    limit = _early_limit(memory_bytes, room_bytes) if straight and features.tells_pages else 0
    why_not = _why_not_before(memory_bytes, features)
    ways = [way for way in get_args(MemoryWay) if way != "pre-copy" or not why_not]
    early = direct and limit > 0
    all_of = {way: predict(way, size, rates, early=early and way == "stop-and-copy") for way in ways}
    if direct and limit_bytes_per_second:
        late = max(LATE_BYTES, memory_bytes - limit)
        all_of = {way: _slowed(one, memory_bytes, late, limit_bytes_per_second) for way, one in all_of.items()}
    whatever = without_memory(size, rates)
    possible = features.post_copy_bytes >= memory_bytes
    hindered = "" if possible else no_post_copy or "post-copy is not possible here"
    way, reason = _way(wanted, all_of, whatever, hindered)
    fallback = _way("auto", _without(all_of, "pre-copy"), whatever, hindered)[0]
    if way == "pre-copy":
        reason += f"; by {fallback} where the workload writes too fast for it"
    made = _choice(way, all_of, reason, fallback if way == "pre-copy" else None)
    made = msgspec.structs.replace(made, straight=straight, early_limit_bytes=limit)
    if direct and made.goes_straight:
        how = _how_straight(memory_bytes, limit, tells_pages=features.tells_pages)
        made = msgspec.structs.replace(made, reason=made.reason + how)
    if wanted == "pre-copy" and way != wanted:
        made = msgspec.structs.replace(made, fell_back=why_not, reason=f"{why_not}; {reason}")
    return made, _unavailable(wanted, memory_bytes, features, no_post_copy)


def _slowed(found: Prediction, memory_bytes: int, late_bytes: int, bytes_per_second: float) -> Prediction:
    """Where no more than that goes in a second; `late_bytes`: inside the freeze, by stop-and-copy."""
    inside = late_bytes if found.way == "stop-and-copy" else LATE_BYTES
    freeze = max(found.freeze_seconds, min(memory_bytes, inside) / bytes_per_second)
    return Prediction(found.way, freeze, max(found.total_seconds, memory_bytes / bytes_per_second, freeze))


def _early_limit(memory_bytes: int, room_bytes: int) -> int:
    """How much may be sent before the freeze: what is kept of it has to have room beside the copy."""
    limit = room_bytes - memory_bytes - EARLY_SPARE_BYTES
    return limit if min(memory_bytes, limit) >= EARLY_BYTES else 0


def _how_straight(memory_bytes: int, limit: int, *, tells_pages: bool) -> str:
    """What is to be said of memory that goes from process to process, and up to `limit` before the freeze."""
    if memory_bytes < EARLY_BYTES:
        return ""
    if not tells_pages:
        return "; all of it inside the freeze: this kernel does not say which pages there are (Linux 6.7 does)"
    if not limit:
        return "; all of it inside the freeze: to be sent before it, it would need twice the room in the other pod"
    return "; sent before the freeze, and once more inside it what changes meanwhile"


def fall_back(choice: Choice, why: str) -> Choice:
    """From pre-copy, which was begun, to the way that was chosen for this case."""
    all_of: dict[MemoryWay, Prediction] = {one.way: one for one in choice.others if one.way != "pre-copy"}
    assert choice.fallback is not None
    made = _choice(choice.fallback, all_of, "pre-copy was given up", None)
    return msgspec.structs.replace(
        made, fell_back=f"pre-copy was given up: {why}", straight=choice.straight,
        early_limit_bytes=choice.early_limit_bytes,
    )  # fmt: skip


def _choice(way: MemoryWay, all_of: Mapping[MemoryWay, Prediction], reason: str, fallback: MemoryWay | None) -> Choice:
    mine = all_of[way]
    risk = ""
    if way == "post-copy":
        later = max(0.0, mine.total_seconds - mine.freeze_seconds)
        risk = (f"until its memory has come, about {later:.1f} s after the freeze, the workload needs the pod it left: "
                "if that is lost meanwhile, so is the workload")  # fmt: skip
    others = list(_without(all_of, way).values())
    return Choice(way, mine.freeze_seconds, mine.total_seconds, others, reason, risk, fallback)


def _without(all_of: Mapping[MemoryWay, Prediction], way: MemoryWay) -> dict[MemoryWay, Prediction]:
    return {one: found for one, found in all_of.items() if one != way}


def _way(
    wanted: Wanted, all_of: Mapping[MemoryWay, Prediction], whatever_seconds: float, hindered: str
) -> tuple[MemoryWay, str]:
    """The way, and why. `whatever_seconds` of each freeze are there whichever way the memory goes; `hindered`: why not
    by post-copy."""
    if wanted in all_of:
        return cast(MemoryWay, wanted), "asked for"
    copied = all_of["stop-and-copy"].freeze_seconds
    if copied - whatever_seconds <= SHORT_FREEZE_SECONDS:
        return "stop-and-copy", "it is little memory"
    if not hindered:
        if all_of["post-copy"].freeze_seconds >= copied:
            return "stop-and-copy", "post-copy would not make the freeze shorter"
        return "post-copy", f"the freeze would be {copied:.1f} s with stop-and-copy"
    if "pre-copy" in all_of and all_of["pre-copy"].freeze_seconds < copied:
        return "pre-copy", f"{hindered}, and the freeze would be {copied:.1f} s with stop-and-copy"
    return "stop-and-copy", hindered


def _unavailable(wanted: Wanted, memory_bytes: int, features: MemoryFeatures, no_post_copy: str) -> list[Problem]:
    if wanted == "post-copy" and no_post_copy:
        return [Problem("post-copy-unavailable", no_post_copy, "machine", _AUTO)]
    if wanted == "post-copy" and not features.post_copy_bytes:
        message = "post-copy is not possible: the kernel has no userfaultfd(2) that tells of forks and remappings"
        return [Problem("post-copy-unavailable", message, "machine", _AUTO)]
    if wanted == "post-copy" and features.post_copy_bytes < memory_bytes:
        message = _too_much("post-copy", features.post_copy_bytes)
        return [
            Problem("post-copy-unavailable", message, "machine", "raise the agent's limit of open files (ulimit -n)")
        ]
    return []


def _why_not_before(memory_bytes: int, features: MemoryFeatures) -> str:
    """Why pre-copy is not possible; "" where it is."""
    if not features.pre_copy_bytes:
        return "pre-copy is not possible: the kernel does not tell what a process writes (CONFIG_MEM_SOFT_DIRTY is off)"
    return _too_much("pre-copy", features.pre_copy_bytes) if features.pre_copy_bytes < memory_bytes else ""


def _too_much(way: str, limit_bytes: int) -> str:
    return f"{way} is possible up to {limit_bytes >> 20} MiB here: CRIU needs two open files for every 4 MiB"


_AUTO = "choose --memory auto"


def usable(source: MemoryFeatures, destination: MemoryFeatures) -> MemoryFeatures:
    """What a move between the two can use: pages are fetched by one and given by the other, but tracked by one only."""
    post_copy_bytes = min(source.post_copy_bytes, destination.post_copy_bytes)
    return MemoryFeatures(post_copy_bytes, source.pre_copy_bytes, source.tells_pages)
