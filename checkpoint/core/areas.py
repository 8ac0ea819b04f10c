"""Which of a stopped process's memory CRIU is spared in a lazy dump: its large areas. Pure.

CRIU takes a reference to each page that it leaves where it is, some 50 ms a GiB inside the freeze, and nobody wants
those references: the pages are read from the stopped process. So of the large areas CRIU is told that there is nothing
in them (`checkpoint.memory.sparing`), and which pages they have is found out beside its dump.

Only what CRIU would have left to userfaultfd is taken out of its hands (criu: vma.h, vma_entry_can_be_lazy): private,
anonymous, not locked, no huge pages of hugetlbfs. What a restore does not register there would be zeros for ever.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

AREA_BYTES = 16 << 20
"""What is smaller is CRIU's: there may be hundreds of them, and each question costs a tenth of a millisecond. It must
not be less than 2 MiB, up to which CRIU asks for several areas at once (criu: pagemap-cache.c)."""

BLOCK_BYTES = 256 << 10
"""What has to come is said in such blocks: a page of them or all, it is one request. 4 GiB are 16,384 at most."""


class Area(NamedTuple):
    start: int
    end: int


def shown(area: Area) -> Area:
    """As much of a large area as CRIU is shown where it need not know how large it is: what it does for each page that
    an area could have takes it 10 to 25 ms a GiB, inside the freeze."""
    return Area(area.start, area.start + AREA_BYTES)


def large(maps: str, status: str) -> list[Area]:
    """The areas of one process, from its /proc/<pid>/maps and /proc/<pid>/status (proc(5))."""
    if _locked_kib(status) != 0:
        return []  # which ones is not said there, and a locked one is not lazy
    return [area for area in map(_private, maps.splitlines()) if area is not None]


def _private(line: str) -> Area | None:
    span, access, _, _, inode, *name = line.split(maxsplit=5)
    start, end = (int(one, 16) for one in span.split("-"))
    is_anonymous = inode == "0" and (not name or name[0] == "[heap]" or name[0].startswith("[anon:"))
    return Area(start, end) if access[3] == "p" and is_anonymous and end - start >= AREA_BYTES else None


def _locked_kib(status: str) -> int:
    """-1 where it is not said."""
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmLck:")), -1)


def blocks(area: Area, start: int, end: int) -> tuple[int, int]:
    """The whole blocks that have `start` up to `end`, as far as they lie in the area."""
    return max(area.start, start - start % BLOCK_BYTES), min(area.end, -(-end // BLOCK_BYTES) * BLOCK_BYTES)


def join(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in rising order, those that touch made one."""
    joined: list[tuple[int, int]] = []
    for one in ranges:
        add(joined, one)
    return joined


def add(joined: list[tuple[int, int]], one: tuple[int, int]) -> None:
    """Add the next range, in rising order, to joined ones."""
    start, end = one
    if joined and start <= joined[-1][1]:
        joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
    else:
        joined.append(one)


def within(area: Area, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of `ranges`, which are joined, lies in the area."""
    first = bisect_right(ranges, area.start, key=lambda one: one[1])
    found: list[tuple[int, int]] = []
    for start, end in ranges[first:]:
        if start >= area.end:
            break
        found.append((max(start, area.start), min(end, area.end)))
    return found


def between(area: Area, inside: Iterable[tuple[int, int]]) -> list[Area]:
    """The rest of the area: what lies before, between and behind these ranges `within` it."""
    found: list[Area] = []
    at = area.start
    for start, end in inside:
        if at < start:
            found.append(Area(at, start))
        at = end
    return [*found, Area(at, area.end)] if at < area.end else found
