"""How long a connection was silent while a reply was due. Pure: the caller says what time it is."""

from __future__ import annotations

import heapq

from controller.demo.report import Silent

KEPT = 64
"""Silences remembered for each connection: the move makes one or two, memory that comes later many, the rest tell the
floor."""


class Silence:
    """One connection's silences.

    A silence begins when a request is sent while nothing is outstanding, or with the last byte heard while something
    still is; it ends with the next byte. A connection that is owed nothing is not silent, it is idle.
    """

    __slots__ = ("_least", "_longest", "_outstanding", "_since")

    def __init__(self) -> None:
        self._outstanding = 0
        self._since = 0.0
        self._longest: list[tuple[float, float]] = []  # a heap of (seconds, began), the shortest first
        self._least = 0.0

    @property
    def outstanding(self) -> int:
        return self._outstanding

    def asked(self, now: float, replies: int) -> None:
        """`replies` more replies are due."""
        if not self._outstanding:
            self._since = now
        self._outstanding += replies

    def heard(self, now: float) -> None:
        """Bytes came."""
        if self._outstanding:
            seconds = now - self._since
            if seconds > self._least:
                self._keep(seconds)
        self._since = now

    def answered(self, replies: int) -> None:
        """So many of the replies due are complete. (Replies nobody asked for don't make the count negative.)"""
        self._outstanding = max(0, self._outstanding - replies)

    def ended(self, now: float) -> None:
        """The connection is gone: what was due never comes."""
        self.heard(now)
        self._outstanding = 0

    def current(self, now: float) -> float:
        """The seconds of the silence that is going on, 0 when nothing is due."""
        return now - self._since if self._outstanding else 0.0

    def forget(self) -> None:
        """Drop what was kept so far: the run begins now."""
        self._longest.clear()
        self._least = 0.0

    def longest(self) -> list[Silent]:
        """The silences kept, the longest first."""
        return [Silent(began, began + seconds) for seconds, began in sorted(self._longest, reverse=True)]

    def _keep(self, seconds: float) -> None:
        if len(self._longest) < KEPT:
            heapq.heappush(self._longest, (seconds, self._since))
            return
        heapq.heapreplace(self._longest, (seconds, self._since))
        self._least = self._longest[0][0]
