"""Memory sent before the freeze, while the workload runs: what the giver remembers of it, and where the taker keeps it.
Pure.

It travels by whole chunks (`CHUNK_BYTES`, at multiples of it). Of each that it has sent the giver remembers **tags**,
one for each unit of a few pages, not the bytes; the taker keeps the bytes, each chunk in a **slot**. Once the workload
stands still its memory is read again: what has the same tags is the same, and is taken from the slot. The taker hears
of that before it asks for anything else.

That is right only of what has arrived. So whatever is sent has a number, and whoever connects says how many have come:
the chunks that were sent after that are forgotten. Nobody has to know where a connection broke.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import Answer, Same, placed

UNIT_BYTES = 4 * PAGE_BYTES
"""What is compared as one. The tag of a page takes 3 us, of four pages 4.6, of 64 pages 43; but a workload that writes
all over its memory writes a page here and there, and all of the unit goes again."""

TAG_BYTES = 16
ALL_PAGES = (1 << CHUNK_BYTES // PAGE_BYTES) - 1

MOST_PASSES = 4
LITTLE = 1 / 50
"""Of everything: a pass that sent less leaves nothing that another would shorten the freeze by."""

SHRINKS = 1 / 2
"""What a pass sends must be less than so much of the one before, or the workload writes as fast as it is sent."""

_UNITS = CHUNK_BYTES // UNIT_BYTES
_UNIT_PAGES = (1 << UNIT_BYTES // PAGE_BYTES) - 1


class Chunk(NamedTuple):
    """`process` is a PID at the source, `image` an address of its, a multiple of CHUNK_BYTES."""

    process: int
    image: int


def whole(ranges: Collection[tuple[int, int]]) -> list[int]:
    """Where the chunks begin that lie in these ranges, each with all of it."""
    return [at for start, end in ranges for at in range(-(-start // CHUNK_BYTES) * CHUNK_BYTES, end, CHUNK_BYTES)
            if at + CHUNK_BYTES <= end]  # fmt: skip


def another_pass(sent_bytes: Sequence[int]) -> bool:
    """Whether to look for what has changed once more; what each pass so far has sent."""
    last, first = sent_bytes[-1], sent_bytes[0]
    if len(sent_bytes) >= MOST_PASSES or last <= LITTLE * first:
        return False
    return len(sent_bytes) == 1 or last < SHRINKS * sent_bytes[-2]


class Sent:
    """The giver's: what the taker has."""

    def __init__(self) -> None:
        self._tags: dict[Chunk, tuple[int, bytes]] = {}
        self.number = 0
        """Of what was sent last."""

    def __contains__(self, chunk: Chunk) -> bool:
        return chunk in self._tags

    def __len__(self) -> int:
        return len(self._tags)

    @property
    def chunks(self) -> list[Chunk]:
        return list(self._tags)

    def same(self, chunk: Chunk, tags: bytes) -> int:
        """The pages, a bit for each, that are as they were sent; `tags` are those of the chunk as it is."""
        _, sent = self._tags.get(chunk, (0, b""))
        if sent == tags:
            return ALL_PAGES
        found = 0
        if sent:
            for unit in range(_UNITS):
                place = slice(unit * TAG_BYTES, (unit + 1) * TAG_BYTES)
                if sent[place] == tags[place]:
                    found |= _UNIT_PAGES << unit * (UNIT_BYTES // PAGE_BYTES)
        return found

    def send(self, chunk: Chunk, tags: bytes) -> int:
        """It goes out now, all that is not the same; gives its number."""
        self.number += 1
        self._tags[chunk] = self.number, tags
        return self.number

    def arrived(self, number: int) -> None:
        """So many have, over all connections; there is a new one, and what did not is counted anew."""
        self.number = min(number, self.number)
        self._tags = {chunk: one for chunk, one in self._tags.items() if one[0] <= number}


class Slot(NamedTuple):
    """`offset` in the taker's store; `zeros` has a bit for each page that is nothing but zeros, and not in there."""

    offset: int
    zeros: int


class Part(NamedTuple):
    """`size` bytes at `image`, in a process, that are the same: `pages`, and zeros between them."""

    process: int
    image: int
    size: int
    pages: list[tuple[int, int, int]]
    """Some in a row each: at which address, at which offset of the taker's store, how many bytes."""


class Kept:
    """The taker's: which slot has which chunk."""

    def __init__(self, limit_bytes: int) -> None:
        self._slots: dict[Chunk, Slot] = {}
        self._most = limit_bytes // CHUNK_BYTES
        self.number = 0
        """How many have arrived: what the giver is told."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._slots) * CHUNK_BYTES

    def take(self, one: Answer) -> Slot:
        """Where its pages go, each in its place. Raises AgentError BAD_REQUEST for what no giver sends."""
        chunk = Chunk(one.space, one.image)
        known = self._slots.get(chunk)
        is_next = one.number == self.number + 1 and one.size == CHUNK_BYTES and not one.image % CHUNK_BYTES
        if not is_next or (known is None and (one.same or len(self._slots) >= self._most)):
            raise AgentError(Code.BAD_REQUEST, f"no memory sent ahead: {one}")
        before = known or Slot(len(self._slots) * CHUNK_BYTES, 0)
        self._slots[chunk] = Slot(before.offset, before.zeros & one.same | ALL_PAGES & ~(one.same | one.present))
        self.number = one.number
        return self._slots[chunk]

    def parts(self, same: Iterable[Same]) -> list[Part]:
        """Where that is kept which is the same. Raises AgentError BAD_REQUEST for what never came."""
        found: list[Part] = []
        for one in same:
            slot = self.slot(one)
            for place, _, size in placed(one.pages):
                image = one.image + place
                if found and found[-1].process == one.process and found[-1].image + found[-1].size == image:
                    found[-1] = found[-1]._replace(size=found[-1].size + size)
                else:
                    found.append(Part(one.process, image, size, []))
                span = (1 << size // PAGE_BYTES) - 1 << place // PAGE_BYTES
                for at, _, some in placed(one.pages & span & ~slot.zeros):
                    _add(found[-1].pages, one.image + at, slot.offset + at, some)
        return found

    def slot(self, one: Same) -> Slot:
        """Where its chunk is kept. Raises AgentError BAD_REQUEST where that never came."""
        slot = self._slots.get(Chunk(one.process, one.image))
        if slot is None:
            raise AgentError(Code.BAD_REQUEST, f"memory of process {one.process} at {one.image:#x} never came")
        return slot


def _add(pages: list[tuple[int, int, int]], image: int, offset: int, size: int) -> None:
    """As one with the last of them, where it follows that in both places."""
    if pages and (last := pages[-1])[0] + last[2] == image and last[1] + last[2] == offset:
        pages[-1] = (*last[:2], last[2] + size)
    else:
        pages.append((image, offset, size))
