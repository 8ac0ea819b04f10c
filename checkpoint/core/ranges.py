"""Address ranges that remember where their pages were at the snapshot. Pure.

A process that runs already moves, drops and shares memory whose pages have not come yet (mremap, munmap, fork). So a
range has two addresses: where it is now, and `image`, where the page's bytes are asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Range(NamedTuple):
    """`start` up to `end`, bytes, page-aligned; its first byte was at `image`."""

    start: int
    end: int
    image: int

    @property
    def size(self) -> int:
        return self.end - self.start

    def part(self, start: int, end: int) -> Range:
        """What of it lies within `start` and `end`; there must be something."""
        first, last = max(start, self.start), min(end, self.end)
        return Range(first, last, self.image + first - self.start)


class Ranges:
    """Sorted ranges that do not overlap. A cut in the middle of one leaves two."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._all = sorted(ranges)
        self._size = sum(one.size for one in self._all)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def size(self) -> int:
        """Bytes, all together."""
        return self._size

    def add(self, one: Range) -> None:
        insort(self._all, one)
        self._size += one.size

    def at(self, address: int) -> Range | None:
        """The range that has `address`; None when there is none."""
        place = bisect_right(self._all, address, key=_start) - 1
        if place >= 0 and address < self._all[place].end:
            return self._all[place]
        return None

    def after(self, address: int) -> Range | None:
        """What has `address` or is the next behind it; from the beginning again where nothing is. None: it is empty."""
        if not self._all:
            return None
        place = bisect_right(self._all, address, key=_end)
        return self._all[place] if place < len(self._all) else self._all[0]

    def gap(self, address: int, start: int, end: int) -> tuple[int, int]:
        """What of `start` up to `end`, around `address`, has none of the ranges; `address` must have none either."""
        place = bisect_right(self._all, address, key=_start)
        if place:
            start = max(start, self._all[place - 1].end)
        if place < len(self._all):
            end = min(end, self._all[place].start)
        return start, end

    def within(self, start: int, end: int) -> list[Range]:
        """Whatever lies within `start` and `end`."""
        return [one.part(start, end) for one in self._all[self._hit(start, end)]]

    def cut(self, start: int, end: int) -> list[Range]:
        """Take out whatever lies within `start` and `end`; gives it."""
        place = self._hit(start, end)
        hit = self._all[place]
        left = [one.part(one.start, start) for one in hit[:1] if one.start < start]
        left += [one.part(end, one.end) for one in hit[-1:] if one.end > end]
        if hit:
            self._all[place] = left
        gone = [one.part(start, end) for one in hit]
        self._size -= sum(one.size for one in gone)
        return gone

    def _hit(self, start: int, end: int) -> slice:
        """Where those are that have something between."""
        first = bisect_right(self._all, start, key=_end)
        last = bisect_left(self._all, end, key=_start)
        return slice(first, last if start < end else first)


def _start(one: Range) -> int:
    return one.start


def _end(one: Range) -> int:
    return one.end
