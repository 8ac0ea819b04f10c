"""Which pages of a restored process are still to come: one `Space` for each address space. Pure.

The shell (`checkpoint.memory.taker`) tells what happens to the process (userfaultfd(2)'s events) and what arrives; the
space says what to ask for and where to put what has come. A page is **wanted**, then **asked** for, then there.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from checkpoint.core.ranges import Range, Ranges

PAGE_BYTES = 4096

FAULT_BYTES = 4 * PAGE_BYTES
"""With the page that somebody waits for come its neighbours in the same 16 KiB: while the way to the giver and back
takes 0.3 ms, each page of the answer takes 10 to 30 us."""

NEAR_BYTES = 64 << 10
"""Memory is touched densely here and hardly there. With each further fault of a region twice as much around it is asked
for, up to a chunk, but nobody waits for that: it comes right behind, so much of it at once, while the workload goes on.
Beside much other work the first 270 faults of a Redis of 4 GiB, one after the other, took 0.29 s at the median; where
each waited for all of that, 0.31 to 0.33 s. Alone it was 0.16 and 0.17 s."""

REGION_BYTES = 2 << 20

CHUNK_BYTES = 256 << 10
"""What is asked for at once at most (`checkpoint.core.pacing`): 64 pages, for an answer has a bit for each."""


class Ask(NamedTuple):
    """A request: `number` comes back with the answer. `image` and `size` say which bytes, as at the snapshot."""

    number: int
    image: int
    size: int


class Hurry(NamedTuple):
    """Nobody waited for this when it was asked for, and now somebody does."""

    asked: Ask


class Due(Enum):
    """Why a fault asks for nothing."""

    COMING = "it has been asked for, for somebody who waits"
    ZERO = "it was never written: all zeros"


class Put(NamedTuple):
    """Copy `size` bytes that lie at `offset` of the answer to `address`."""

    address: int
    offset: int
    size: int


class Piece(NamedTuple):
    """Some pages in a row: `size` bytes for `address`, at `offset` of the answer's body; None: they are all zeros."""

    address: int
    offset: int | None
    size: int


def pieces(put: Put, present: int) -> list[Piece]:
    """What is to be put where, of an answer that has the pages of `present` one after the other."""
    found: list[Piece] = []
    page, end = put.offset // PAGE_BYTES, (put.offset + put.size) // PAGE_BYTES
    last_of_runs = present ^ present >> 1 | 1 << end - 1
    while page < end:
        rest = last_of_runs >> page
        run = (rest & -rest).bit_length()
        before = (present & (1 << page) - 1).bit_count()
        address = put.address + page * PAGE_BYTES - put.offset
        found.append(Piece(address, before * PAGE_BYTES if present >> page & 1 else None, run * PAGE_BYTES))
        page += run
    return found


class Space:
    """The pages of one address space."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        """`ranges`: (start, end) of what has to come; pages in between that were never written come as zeros."""
        self._wanted = Ranges(Range(start, end, start) for start, end in ranges)
        self._asked: dict[int, Ranges] = {}
        self._said: dict[int, Ask] = {}
        self._awaited: set[int] = set()
        """The numbers of those that somebody waits for."""
        self._spans: dict[int, int] = {}
        """How much the next fault in a region asks for."""
        self._cursor = 0
        self._numbers = 0

    @property
    def left_bytes(self) -> int:
        """What is not there yet."""
        return self._wanted.size + sum(one.size for one in self._asked.values())

    @property
    def complete(self) -> bool:
        return not len(self._wanted) and not self._asked

    @property
    def asked_count(self) -> int:
        return len(self._asked)

    def fault(self, address: int) -> Ask | Hurry | Due:
        """Somebody waits for the page at `address`."""
        number = next((number for number, ranges in self._asked.items() if ranges.at(address)), None)
        if number in self._awaited:
            return Due.COMING
        if number is not None:
            self._awaited.add(number)
            return Hurry(self._said[number])
        found = self._wanted.at(address)
        if found is None:
            return Due.ZERO
        block = address - address % FAULT_BYTES
        ask = self._ask(found.part(block, block + FAULT_BYTES))
        self._awaited.add(ask.number)
        return ask

    def near(self, address: int) -> list[Ask]:
        """What else to ask for after a fault there: it is likely to be touched soon."""
        region = address // REGION_BYTES
        span = self._spans.get(region, FAULT_BYTES)
        self._spans[region] = min(CHUNK_BYTES, 2 * span)
        start = address - address % span
        found = self._wanted.within(start, start + span)
        return [self._ask(one.part(at, at + NEAR_BYTES)) for one in found
                for at in range(one.start, one.end, NEAR_BYTES)]  # fmt: skip

    def never_written(self, address: int) -> tuple[int, int]:
        """Where a fault was at zeros: the pages around it, start and end, of which none is to come either."""
        start = address - address % CHUNK_BYTES
        end = start + CHUNK_BYTES
        for ranges in self._everywhere():
            start, end = ranges.gap(address, start, end)
        return start, end

    def next(self, size: int = CHUNK_BYTES) -> Ask | None:
        """What to ask for in the background; None when everything is there or asked for."""
        found = self._wanted.after(self._cursor)
        if found is None:
            return None
        start = self._cursor if found.start < self._cursor < found.end else found.start
        return self._ask(found.part(start, start + size))

    def unmoved(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of these addresses, as at the snapshot, is still to be asked for, and in its place: start and end."""
        return [(one.start, one.end) for one in self._wanted.within(start, end) if one.start == one.image]

    def filled(self, start: int, end: int) -> None:
        """What `unmoved` gives of it is there."""
        for one in self.unmoved(start, end):
            self._wanted.cut(*one)

    def _ask(self, part: Range) -> Ask:
        self._wanted.cut(part.start, part.end)
        self._cursor = part.end
        self._numbers += 1
        self._asked[self._numbers] = Ranges([part])
        self._said[self._numbers] = Ask(self._numbers, part.image, part.size)
        return self._said[self._numbers]

    def is_asked(self, number: int) -> bool:
        return number in self._said

    def asked(self, number: int) -> Ask | None:
        """None: it has been answered, or the process has ended."""
        return self._said.get(number)

    def arrived(self, number: int) -> list[Put]:
        """Where the bytes of an answer belong now; nowhere, where the process has dropped them meanwhile."""
        image = self._said[number].image
        return [Put(one.start, one.image - image, one.size) for one in self._asked[number]]

    def done(self, number: int) -> None:
        """The answer's bytes are where they belong."""
        del self._asked[number]
        del self._said[number]
        self._awaited.discard(number)

    def outstanding(self) -> list[tuple[Ask, bool]]:
        """What was asked for and has not been answered, and whether somebody waits for it: to be said again to another
        connection."""
        return [(ask, number in self._awaited) for number, ask in self._said.items()]

    def removed(self, start: int, end: int) -> None:
        """The process has unmapped it, or given the pages back (munmap(2), MADV_DONTNEED)."""
        for ranges in self._everywhere():
            ranges.cut(start, end)

    def remapped(self, old: int, new: int, size: int) -> None:
        """The process has moved it (mremap(2))."""
        for ranges in self._everywhere():
            ranges.cut(new, new + size)
            for one in ranges.cut(old, old + size):
                ranges.add(Range(one.start + new - old, one.end + new - old, one.image))

    def forked(self) -> Space:
        """The child's: it has every page that has come, and wants every other for itself."""
        child = Space(())
        for ranges in self._everywhere():
            for one in ranges:
                child._wanted.add(one)
        return child

    def _everywhere(self) -> list[Ranges]:
        return [self._wanted, *self._asked.values()]
