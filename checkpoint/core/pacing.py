"""How much is fetched in the background beside the pages that somebody waits for. Pure: `now` is given, in seconds.

A fault waits behind what was asked for before it. So the less is asked for ahead, the shorter a fault waits, and the
longer it takes until everything is there, which is how long the source is needed. Right after the freeze a workload
touches its whole working set, one page after the other, and its peers wait for it: then the background stands still.
Where the workload stands still itself, all is background.
"""

from __future__ import annotations

from typing import NamedTuple

from checkpoint.core.pages import CHUNK_BYTES

STORM_SECONDS = 0.6
"""So long after the freeze nothing but faults. A Redis of any size has 150 to 200 of them in 0.15 s: its first round of
requests, of which no client hears before all are done. Then the answers have to get to the clients, and whoever carries
them needs the processors: with the background at work by then, the longest silence was 0.2 to 0.6 s after the freeze
instead of 0.11 to 0.16 s."""

LULL_SECONDS = 0.01
"""Without a fault for so long, nobody is in the way of the background."""


class Ahead(NamedTuple):
    """Ask for so many bytes at once, and have so many requests under way."""

    size: int
    window: int
    least: int = 1
    """Not fewer than so many at once."""


NOTHING = Ahead(0, 0)
LITTLE = Ahead(CHUNK_BYTES // 2, 2)
MUCH = Ahead(CHUNK_BYTES, 4)
ALL = Ahead(CHUNK_BYTES, 32, 16)
"""Where the workload stands still. Of what was sent ahead an answer is 40 bytes: the way there and back is longer, and
what goes together goes in one packet."""


class Pace:
    """Of one migration."""

    def __init__(self, *, runs: bool) -> None:
        """`runs`: the workload does, meanwhile."""
        self._storm_seconds = STORM_SECONDS if runs else 0.0
        self._much = MUCH if runs else ALL
        self._began: float | None = None
        self._faulted = float("-inf")

    def begin(self, now: float) -> None:
        """Everything is to come now; with post-copy the workload runs."""
        if self._began is None:
            self._began = now

    @property
    def begun(self) -> bool:
        return self._began is not None

    def fault(self, now: float) -> None:
        self._faulted = now

    def ahead(self, now: float) -> Ahead:
        """What the background may do now."""
        if self._began is None or now - self._began < self._storm_seconds:
            return NOTHING
        return self._much if now - self._faulted >= LULL_SECONDS else LITTLE
