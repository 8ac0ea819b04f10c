"""The links of one flow, one after the other, as one table without I/O.

When a workload has moved twice, a flow would pass three proxies. Then its peer leg's proxy dials a new link, straight
to the workload's newest pod, and the two ends change over to it: each direction by itself, each without a byte lost,
repeated or overtaken, and without asking the proxy in the middle for anything.

- **Giving**: what was read of the leg already goes into the old link, then a FIN behind it; everything later goes into
  the new link. If the leg's stream has ended before, the new link gets its FIN at once.
- **Taking**: the old link is read to its end, and only then the new one. That end is no end of the stream, for the
  successor was announced before it: the one who dials says so and waits for the answer (`expect`) before it gives its
  FIN, the other one hears of it with the link itself. An end that comes while the answer is awaited is kept until
  the answer tells what it meant.

The proxy in the middle sees two streams end, passes both on like any others, and forgets the flow.

Links are numbered from 0 in their order; a flow may be several behind, when moves follow each other faster than a slow
reader reads.
"""

from __future__ import annotations

from enum import Enum, auto


class Do(Enum):
    """What the shell has to do. `Succession.giving` and `taking` say with which link."""

    STOP_GIVING = auto()
    """Read no more of the leg; say `flushed` when the old link has taken what was read."""
    GIVE = auto()
    """End the stream into the link before `giving`, and give to `giving` from now on."""
    TAKE = auto()
    """Read `taking` from now on."""
    END = auto()
    """The stream from the link side has come to its real end."""


class Succession:
    """Says what follows; remembers where each direction is."""

    def __init__(self) -> None:
        self.newest = 0
        self.giving = 0
        self.taking = 0
        self.expecting = False
        """A successor was asked for and the answer is not there."""
        self.parked = False
        """The link that is read has ended, and the answer will tell what that means."""
        self.ended = False
        """The stream from the link side has really ended."""

    @property
    def in_use(self) -> int:
        """The oldest link that either direction still needs."""
        return self.giving if self.ended else min(self.giving, self.taking)

    def expect(self) -> None:
        """A successor is being asked for."""
        self.expecting = True

    def deny(self) -> list[Do]:
        """There will be none: an end that was kept was the real one."""
        self.expecting = False
        if not self.parked:
            return []
        return self._end()

    def succeed(self) -> list[Do]:
        """There is a newer link."""
        idle = self.giving == self.newest
        self.newest += 1
        self.expecting = False
        orders = [Do.STOP_GIVING] if idle else []
        if self.parked:
            orders += self._next()
        return orders

    def flushed(self) -> list[Do]:
        """The link `giving` has taken all that was read of the leg before its successor came."""
        self.giving += 1
        return [Do.GIVE, Do.STOP_GIVING] if self.giving < self.newest else [Do.GIVE]

    def link_ended(self) -> list[Do]:
        """The link `taking` has been read to its end."""
        if self.taking < self.newest:
            return self._next()
        if self.expecting:
            self.parked = True
            return []
        return self._end()

    def _next(self) -> list[Do]:
        self.parked = False
        self.taking += 1
        return [Do.TAKE]

    def _end(self) -> list[Do]:
        self.parked = False
        self.ended = True
        return [Do.END]
