"""What CRIU reads of /proc/<pid>/smaps, made of a look at it before the freeze. Pure.

All that CRIU wants of it is which areas there are, and the flags of each (criu: proc_parse.c, parse_smaps). To count
their pages, which it does not want, the kernel walks through all of them: 16 to 30 ms a GiB. /proc/<pid>/maps has the
same areas, and costs nothing. The kernel makes two areas one only where their flags are the same, so what an area has
in common with one that was seen before says its flags; an area that has nothing in common with any was not there yet.
Only what madvise(2) has changed of an area since then, and does not show in maps, is not seen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from checkpoint.core.areas import Area

MUCH_BYTES = 256 << 20
"""What is worth it, of one process: from here on counting the pages takes as long as to be asked about each file."""

_FLAGS = "VmFlags:"


class Mapping(NamedTuple):
    """An area as smaps had it."""

    start: int
    end: int
    kind: tuple[str, ...]
    """Access, device, inode and, where it has one, its name."""
    flags: str
    """The line that says them."""


def parse(lines: Iterable[str]) -> list[Mapping]:
    """Of the lines of /proc/<pid>/smaps (proc_pid_smaps(5))."""
    found: list[Mapping] = []
    head = ""
    for line in lines:
        if line.startswith(_FLAGS):
            found.append(Mapping(*_head(head), line.rstrip("\n")))
        elif not line[:1].isupper():  # what it counts begins with a capital letter, an address does not
            head = line
    return found


def text(maps: str, known: Sequence[Mapping], shown: Collection[Area] = ()) -> str | None:
    """What CRIU would want of smaps, where `maps` is what /proc/<pid>/maps says now; what begins as one of `shown` does
    is said to end where that does. None: there is an area of which nothing, or not one thing alone, is known."""
    ends = dict(shown)
    said: list[str] = []
    for line in maps.removesuffix("\n").split("\n"):
        start, end, kind = _head(line)
        flags = {one.flags if one.kind == kind else "" for one in _overlapping(known, start, end)}
        if len(flags) != 1 or "" in flags:
            return None
        said += (_ending(line, ends[start]) if start in ends else line, flags.pop())
    return "\n".join([*said, ""])


def _overlapping(known: Sequence[Mapping], start: int, end: int) -> Iterable[Mapping]:
    first = bisect_right(known, start, key=lambda one: one.end)
    for one in known[first:]:
        if one.start >= end:
            return
        yield one


def _ending(line: str, end: int) -> str:
    span, rest = line.split(maxsplit=1)
    return f"{span.split('-')[0]}-{end:x} {rest}"


def _head(line: str) -> tuple[int, int, tuple[str, ...]]:
    span, access, _, *rest = line.split(maxsplit=5)
    start, end = (int(one, 16) for one in span.split("-"))
    return start, end, (access, *(one.rstrip("\n") for one in rest))
