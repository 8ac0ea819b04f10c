"""The taker's part in memory that is sent before the freeze: it is kept here until the restored processes take it."""

from __future__ import annotations

from collections import Counter

from checkpoint.core.early import Kept
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.pages import PAGE_BYTES, Ask
from checkpoint.core.pagewire import EARLY, Answer, Request, placed
from checkpoint.memory import uffd

_GROUP_BYTES = 2 << 20
"""Given back at once: a large page. So the copy grows as this shrinks, and both together take little more than one."""


class Store:
    """Of one migration."""

    def __init__(self, limit_bytes: int) -> None:
        """It takes no more than that."""
        self._kept = Kept(limit_bytes)
        self._limit_bytes = limit_bytes
        self._buffer = uffd.Buffer(-(-max(limit_bytes, 1) // _GROUP_BYTES) * _GROUP_BYTES)
        self._used: Counter[int] = Counter()
        self.coming = True
        """Whether the giver sends ahead: else what it says are answers to what it was asked."""
        self.kept_bytes = 0
        """What was put into the processes as it came."""

    @property
    def size(self) -> int:
        """Bytes that came ahead."""
        return self._kept.size

    def welcome(self) -> Request:
        """What is said first over each connection."""
        self.coming = True
        return Request(EARLY, number=self._kept.number, size=self._limit_bytes)

    def take(self, one: Answer, body: memoryview) -> None:
        """What the giver sends ahead, pages in `body`; its end. Raises AgentError for what no giver sends."""
        if one == Answer(0, 0, 0):
            self.coming = False
            return
        at = self._kept.take(one).offset
        for place, offset, size in placed(one.present):
            self._buffer.view[at + place : at + place + size] = body[offset : offset + size]

    def find(self, process: int, ask: Ask, same: int) -> tuple[int, int]:
        """Our address of what was kept for `ask`, and which of its pages are to be taken from there: of those that are
        the same the ones that are not zeros. Raises AgentError BAD_REQUEST where they were never sent."""
        slot = self._kept.find(process, ask.image)
        if slot is None:
            if same:
                raise AgentError(Code.BAD_REQUEST, f"memory of process {process} at {ask.image:#x} never came")
            return 0, 0
        self.kept_bytes += same.bit_count() * PAGE_BYTES
        return self._buffer.address + slot.offset, same & ~slot.zeros

    def used(self, process: int, ask: Ask) -> None:
        """The answer to `ask` is where it belongs: what was kept for it goes."""
        slot = self._kept.find(process, ask.image)
        if slot is None:
            return
        group = slot.offset // _GROUP_BYTES
        self._used[group] += ask.size
        if self._used[group] == _GROUP_BYTES:
            self._buffer.forget(group * _GROUP_BYTES, _GROUP_BYTES)
