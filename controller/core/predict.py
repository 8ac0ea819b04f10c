"""How long a move will take, from what moves on this machine have taken. Pure.

A move's times are taken as

    base + memory / rate + each connection's + each further process's + each further thread's

where base and rate are those of the way that the memory goes. The base is learnt from small moves, the rate from those
of much memory, and what one of many connections, processes and threads takes from those of little memory and many of
them; where there were none yet, a short probe of the machine and figures of a machine like it stand in. What counts as
much is in `MUCH_BYTES`: below it the rest of the move takes longer than the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

from checkpoint.api import MemoryWay

MUCH_BYTES = 128 << 20
SAMPLES_KEPT = 40

_BASE_SECONDS: dict[MemoryWay, float] = {"stop-and-copy": 0.10, "post-copy": 0.14, "pre-copy": 0.14}
_BASE_TOTAL_SECONDS: dict[MemoryWay, float] = {"stop-and-copy": 0.4, "post-copy": 0.7, "pre-copy": 0.7}
_WALKED_BYTES_PER_SECOND = 40e9
"""Post-copy's part of the freeze: CRIU has the kernel walk through the page tables. Measured by hand on 2 and 4 GiB."""

_COPIES: dict[MemoryWay, tuple[float, float]] = {
    "stop-and-copy": (1.0, 1.0), "post-copy": (0.0, 1.0), "pre-copy": (0.5, 1.5),
}  # fmt: skip
"""How much of the probe, which writes the memory and reads it, falls into the freeze, and into all. Pre-copy has
written it before, but CRIU reads it inside."""

_EARLY_COPIES = (0.6, 3.0)
"""The same of stop-and-copy where it is sent before the freeze: inside, it is compared, and put where it belongs."""


class Size(msgspec.Struct, frozen=True):
    """What a workload is made of, as far as it takes time to move."""

    memory_bytes: int
    connections: int = 0
    processes: int = 1
    threads: int = 1
    """All of them, each process's first one too."""

    @property
    def counts(self) -> tuple[int, ...]:
        """How many there are of each part of `_PARTS`."""
        return self.connections, self.processes - 1, self.threads - self.processes


class _Part(NamedTuple):
    many: int
    """So many of them take longer than what else a small move takes, or nearly."""
    freeze_seconds: float
    total_seconds: float
    """For each of them, until moves have taught better."""


_PARTS = (_Part(200, 150e-6, 3e-3), _Part(10, 12e-3, 14e-3), _Part(100, 1.2e-3, 1.5e-3))
"""Connections, further processes, further threads. Measured by hand, of 1,000, 300 and 1,000."""


class Sample(msgspec.Struct, frozen=True):
    """One move that succeeded."""

    way: MemoryWay
    size: Size
    freeze_seconds: float
    total_seconds: float
    early: bool = False
    """Its memory was sent before the freeze."""


class Rates(msgspec.Struct, frozen=True):
    """What this machine is known to do."""

    copy_bytes_per_second: float
    """The probe: memory written to a tmpfs and read again."""
    samples: list[Sample] = []

    def learnt(self, sample: Sample) -> Rates:
        """With one more move; the oldest is forgotten."""
        return Rates(self.copy_bytes_per_second, [*self.samples, sample][-SAMPLES_KEPT:])


class Prediction(msgspec.Struct, frozen=True):
    way: MemoryWay
    freeze_seconds: float
    total_seconds: float


def predict(way: MemoryWay, size: Size, rates: Rates, *, early: bool = False) -> Prediction:
    """Freeze and total time of a move of such a workload; `early`: its memory is sent before the freeze."""
    samples = [one for one in rates.samples if (one.way, one.early) == (way, early)]
    inside, copy = (part / rates.copy_bytes_per_second for part in (_EARLY_COPIES if early else _COPIES[way]))
    first = inside or 1.0 / _WALKED_BYTES_PER_SECOND
    rest = beside_memory(size, rates)
    others = [(one, beside_memory(one.size, rates)) for one in samples]
    freezes = [(one.size.memory_bytes, one.freeze_seconds - other.freeze_seconds) for one, other in others]
    totals = [(one.size.memory_bytes, one.total_seconds - other.total_seconds) for one, other in others]
    freeze = rest.freeze_seconds + _line(freezes, _BASE_SECONDS[way], first, size.memory_bytes)
    total = rest.total_seconds + _line(totals, _BASE_TOTAL_SECONDS[way], copy, size.memory_bytes)
    return Prediction(way, freeze, max(total, freeze))


class Beside(NamedTuple):
    """What of a move's times is there whichever way its memory goes."""

    freeze_seconds: float
    total_seconds: float


def beside_memory(size: Size, rates: Rates) -> Beside:
    """What its connections, further processes and further threads take."""
    each = list(zip(size.counts, _learnt(rates), strict=True))
    freeze = sum(count * part.freeze_seconds for count, part in each)
    return Beside(freeze, sum(count * part.total_seconds for count, part in each))


def without_memory(size: Size, rates: Rates) -> float:
    """How much of a move's freeze no way of the memory's can shorten: beside those, what moves take here longer than
    they do on a machine that has nothing else to do."""
    bare = predict("stop-and-copy", msgspec.structs.replace(size, memory_bytes=0), rates).freeze_seconds
    return max(beside_memory(size, rates).freeze_seconds, bare - _BASE_SECONDS["stop-and-copy"])


def _learnt(rates: Rates) -> Iterator[_Part]:
    """Each part with what moves of little memory and many of them have taken."""
    little = [one for one in rates.samples if one.size.memory_bytes < MUCH_BYTES]
    for number, part in enumerate(_PARTS):
        many = [one for one in little if one.size.counts[number] >= part.many]
        freezes = [_of_each(one.freeze_seconds - _BASE_SECONDS[one.way], one.size, number, 1) for one in many]
        totals = [_of_each(one.total_seconds - _BASE_TOTAL_SECONDS[one.way], one.size, number, 2) for one in many]
        yield _Part(part.many, median(freezes), median(totals)) if many else part


def _of_each(seconds: float, size: Size, number: int, column: int) -> float:
    """What one of a part takes of these seconds, if the others take what they usually do (`column` of `_PARTS`)."""
    usual = [count * part[column] for count, part in zip(size.counts, _PARTS, strict=True)]
    return max(0.0, seconds - sum(usual) + usual[number]) / size.counts[number]


def _line(points: Sequence[tuple[int, float]], base: float, per_byte: float, memory_bytes: int) -> float:
    small = [seconds for size, seconds in points if size < MUCH_BYTES]
    if small:
        base = median(small)
    large = [max(0.0, seconds - base) / size for size, seconds in points if size >= MUCH_BYTES]
    if large:
        per_byte = median(large)
    return max(0.0, base) + per_byte * (memory_bytes if large or memory_bytes >= MUCH_BYTES or not small else 0)
