"""The taker's part in memory that is sent before the freeze: it is kept here until the restored processes take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from checkpoint.core.early import Kept, Part
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import EARLY, SAME, Answer, Request, Same, placed
from checkpoint.memory import uffd

GROUP_BYTES = 2 << 20
"""Given back at once: a large page. So the copy grows as this shrinks, and both together take little more than one."""


class Store:
    """Of one migration."""

    def __init__(self, limit_bytes: int) -> None:
        """It takes no more than that."""
        self._kept = Kept(limit_bytes)
        self._limit_bytes = limit_bytes
        self._buffer = uffd.Buffer(-(-max(limit_bytes, 1) // GROUP_BYTES) * GROUP_BYTES)
        self._settled: set[int] = set()
        """By the offsets of their slots, the chunks of which it is known what is the same."""
        self._chunks_settled: Counter[int] = Counter()
        """By group."""
        self.coming = True
        """Whether the giver sends ahead: else what it says are answers to what it was asked."""
        self.settled = False
        """Whether all that is the same is where it belongs: the rest is to be asked for."""
        self._asked = False
        self.kept_bytes = 0
        """What was put into the processes as it came."""

    @property
    def size(self) -> int:
        """Bytes that came ahead."""
        return self._kept.size

    def welcome(self) -> Request:
        """What is said first over each connection."""
        self.coming, self._asked = True, False
        return Request(EARLY, number=self._kept.number, size=self._limit_bytes)

    def take(self, one: Answer, body: memoryview) -> None:
        """What the giver sends ahead, pages in `body`; its end. Raises AgentError for what no giver sends."""
        if one == Answer(0, 0, 0):
            self.coming = False
            return
        at = self._kept.take(one).offset
        for place, offset, size in placed(one.present):
            self._buffer.view[at + place : at + place + size] = body[offset : offset + size]

    def question(self) -> Request | None:
        """What to say once the restored processes are there; None: it was said, or the answer to `welcome` lasts."""
        if self.coming or self._asked:
            return None
        self._asked = True
        return Request(SAME)

    def settle(self, same: Sequence[Same], fill: Callable[[Part, int], None]) -> None:
        """These are as they came: `fill` is given each part, and our address of the store. Then what was kept of these
        chunks goes. Raises AgentError for what no giver says."""
        for part in self._kept.parts(same):
            fill(part, self._buffer.address)
        for one in same:
            offset = self._kept.slot(one).offset
            if offset not in self._settled:
                self._settled.add(offset)
                self.kept_bytes += one.pages.bit_count() * PAGE_BYTES
                self._forget(offset // GROUP_BYTES)

    def _forget(self, group: int) -> None:
        """One chunk of it is wanted no more; with the last of them its memory goes."""
        self._chunks_settled[group] += 1
        if self._chunks_settled[group] == GROUP_BYTES // CHUNK_BYTES:
            self._buffer.forget(group * GROUP_BYTES, GROUP_BYTES)
