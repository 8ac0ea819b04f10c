"""What the bench measures of moves with much memory, and the claims about them. Plain values, like `figures`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from tests.bench.rows import Row

FREEZE, STALL, RATIO = 0.25, 0.35, 1.15
"""What is aimed at: seconds with post-copy, whatever the memory; with stop-and-copy times what CRIU alone takes."""

WHY = (
    "While memory comes everything shares the processors: the workload, its clients, both proxies, and who gives and "
    "takes the memory. Nothing is lost or wrong: each value that was written is read back."
)


class MemoryPlan(msgspec.Struct, frozen=True):
    post_copy: tuple[int, ...]
    """Bytes of each move by post-copy."""
    copied: int
    """Bytes of those by stop-and-copy, and of CRIU alone."""


class MemoryMove(msgspec.Struct, frozen=True, kw_only=True):
    """One move of a Redis with so much memory, under a load that writes all over it and reads it back."""

    way: str
    direct: bool = False
    """Its images went from agent to agent; else they stayed in a folder that both see."""
    memory_bytes: int
    freeze_seconds: float
    stall_seconds: float
    """The longest silence of any connection around the move."""
    total_seconds: float
    p99: float | None = None
    """Of the requests while memory came, seconds."""
    p99_otherwise: float | None = None
    alone_seconds: float | None = None
    """CRIU's own dump and restore of an idle Redis as large, to the same tmpfs: the mean of one before and one after.
    None for post-copy, which leaves most of that out."""
    reasons: list[str] = []
    """What was lost; empty when nothing was."""

    @property
    def title(self) -> str:
        return f"{self.memory_bytes / (1 << 30):g} GiB by {self.way}{', direct' * self.direct}"


class Memory(msgspec.Struct):
    moves: list[MemoryMove] = []


def claims(found: Memory | None) -> list[Row]:
    """Nothing where nothing was measured."""
    if found is None:
        return []
    return [row for one in found.moves for row in _claims(one)]


def _claims(one: MemoryMove) -> Iterable[Row]:
    lost = "; ".join(one.reasons) or "0 lost"
    how = f"one move of a Redis under the demo's load: {lost}"
    if one.way == "post-copy":
        frozen, stall = one.freeze_seconds, one.stall_seconds
        yield Row(f"freeze, {one.title}", _ms(frozen), f"<= {_ms(FREEZE)}", frozen <= FREEZE, "", how)
        yield Row(f"stall, {one.title}", _ms(stall), f"<= {_ms(STALL)}", stall <= STALL, "", "the longest silence")
    elif one.alone_seconds is not None:
        ratio = one.freeze_seconds / one.alone_seconds
        what = f"freeze / CRIU alone, {one.title}"
        floor = f"{_ms(one.alone_seconds)}, CRIU alone, before and after"
        yield Row(what, f"{ratio:.2f}", f"<= {RATIO}", ratio <= RATIO, floor, f"{_ms(one.freeze_seconds)}; {how}")


def table(found: Memory | None) -> tuple[Sequence[str], list[Sequence[str]]] | None:
    """Heads and lines."""
    if found is None or not found.moves:
        return None
    heads = ("", "frozen", "longest stall", "everything there after", "p99 meanwhile", "p99 otherwise", "lost")
    return heads, [_line(one) for one in found.moves]


def _line(one: MemoryMove) -> Sequence[str]:
    late, usual = (("-" if seconds is None else _ms(seconds)) for seconds in (one.p99, one.p99_otherwise))
    lost = "; ".join(one.reasons) or "0"
    return one.title, _ms(one.freeze_seconds), _ms(one.stall_seconds), f"{one.total_seconds:.1f} s", late, usual, lost


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"
