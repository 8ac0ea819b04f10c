"""Who gives up its connection when there are fewer descriptors than links: then connections are lent.

A relayed flow needs its leg always, and its link's connection only while there is something to carry. So the last
descriptors are kept for legs and for what comes once, and who is asked for another one for a link, and has none, asks
here. Then links are put to sleep (`proxy.io.carrier`): those that have never carried anything first, then others that
are idle. Which of these is left to chance: where many take turns, one after the other, whoever had waited the longest
would be the next whose turn it is. When nobody is idle, busy ones go on a little later, for they have had their turn.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Container
from typing import Protocol

KEPT = 64
"""So many descriptors links leave alone: for legs of connections that nobody has announced, and all else."""
LEAST = 16
"""And so many those legs do."""
LOOK_SECONDS = 0.02
"""So long a link that is busy has its turn, at least."""
REST_SECONDS = 1.0
"""A link that has not come to rest by then was about to end, or its other end hears nothing: others are asked."""
COUNT_SECONDS = 0.01
"""So long a count of the descriptors is good: on an old kernel it is slow."""
TRIES = 16


class Lender(Protocol):
    """A link that has a connection."""

    group: object
    """Whose it is that could lend it another."""

    @property
    def may_rest(self) -> bool: ...
    @property
    def is_idle(self) -> bool: ...
    @property
    def is_unused(self) -> bool: ...
    def rest(self) -> None: ...


class Seeker(Protocol):
    """Who needs connections that there are no descriptors for."""

    @property
    def wanted(self) -> int: ...
    @property
    def is_crowded(self) -> bool:
        """No other descriptor than one of its own group's is of use."""

    def go_on(self) -> None:
        """There may be some now."""


class _Hat:
    """What is drawn from."""

    def __init__(self) -> None:
        self._all: list[Lender] = []
        self._places: dict[Lender, int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, one: Lender) -> bool:
        return one in self._places

    def add(self, one: Lender) -> None:
        if one not in self._places:
            self._places[one] = len(self._all)
            self._all.append(one)

    def discard(self, one: Lender) -> None:
        place = self._places.pop(one, None)
        if place is None:
            return
        last = self._all.pop()
        if last is not one:
            self._all[place], self._places[last] = last, place

    def draw(self, but: Container[Lender], *, busy: bool) -> Lender | None:
        """One that may rest. `busy`: such as carries something, too, where no idle one is found."""
        found: Lender | None = None
        at_work: Lender | None = None
        for one in random.sample(self._all, min(TRIES, len(self._all))):
            if one in but or not one.may_rest:
                continue
            if not one.is_idle:
                at_work = one
            elif one.is_unused:
                return one
            else:
                found = one
        return found or (at_work if busy else None)


class Lending:
    """A proxy's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, spare: Callable[[], int]) -> None:
        """`spare` counts how many descriptors more the process may open."""
        self._loop, self._count = loop, spare
        self._lenders = _Hat()
        self._groups: defaultdict[object, _Hat] = defaultdict(_Hat)
        self._resting: dict[Lender, float] = {}
        """Until when each has time."""
        self._promised: dict[object, int] = {}
        self._seekers: dict[Seeker, None] = {}
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._is_soon = False
        self._spare = 0
        self._counted_at = -1.0

    # Descriptors

    def promise(self, whom: object, descriptors: int) -> None:
        """Keep so many for its legs, in place of what was promised before."""
        before = self._promised.pop(whom, 0)
        if descriptors > 0:
            self._promised[whom] = descriptors
        if descriptors > before:
            self.look()
        self._counted_at = -1.0

    @property
    def kept(self) -> int:
        return KEPT + sum(self._promised.values())

    @property
    def spare(self) -> int:
        """How many descriptors more may be opened, by anybody."""
        now = self._loop.time()
        if now - self._counted_at > COUNT_SECONDS:
            self._spare, self._counted_at = self._count(), now
        return self._spare

    @property
    def room(self) -> int:
        """For so many links more."""
        return max(0, self.spare - self.kept)

    @property
    def lendable(self) -> int:
        """So many descriptors could be had, had nothing to be carried."""
        return len(self._lenders)

    def take(self) -> bool:
        """Whether there is a descriptor for a link. It is taken, and perhaps one for its leg."""
        if self.room <= 0:
            return False
        self._spare -= 2
        return True

    def take_for_leg(self) -> bool:
        """The same for a leg of a connection that nobody has announced."""
        over = self.spare - self.kept
        if over <= LEAST - KEPT:
            return False
        self._spare -= 1
        if over <= 0:
            self.look()
        return True

    # Links

    def add(self, lender: Lender) -> None:
        """It has a connection."""
        self._lenders.add(lender)
        self._groups[lender.group].add(lender)

    def discard(self, lender: Lender) -> None:
        """It has none."""
        self._lenders.discard(lender)
        self._resting.pop(lender, None)
        group = self._groups[lender.group]
        group.discard(lender)
        if not group:
            del self._groups[lender.group]
        if self._seekers:
            self.look()

    def of(self, group: object) -> int:
        """How many of its links have a connection."""
        return len(self._groups[group]) if group in self._groups else 0

    def seek(self, who: Seeker) -> None:
        """It needs a connection, and there is no descriptor. It goes on when there may be one."""
        self._seekers[who] = None
        self.look()

    def look(self) -> None:
        """See that there are as many descriptors as are needed."""
        if self._is_soon:
            return
        if self._timer:
            self._timer.cancel()
        self._is_soon = True
        self._timer = self._loop.call_soon(self._look, False)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        self._seekers.clear()

    def _look(self, waited: bool) -> None:
        self._timer, self._is_soon = None, True  # what they say meanwhile is heard here
        for who in list(self._seekers):
            who.go_on()
        self._seekers = {who: None for who in self._seekers if who.wanted > 0}
        self._is_soon = False
        now = self._loop.time()
        self._resting = {lender: until for lender, until in self._resting.items() if until > now}
        wanted = self.kept - self.spare
        for who in self._seekers:
            if who.is_crowded:
                self._rest(self._groups[who], who.wanted, now, busy=waited)
            else:
                wanted += who.wanted
        self._rest(self._lenders, wanted, now, busy=waited)
        if (self._seekers or (self._lenders and self.spare < self.kept)) and not self._timer:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look, True)

    def _rest(self, hat: _Hat, wanted: int, now: float, *, busy: bool) -> None:
        """Have so many of them at rest, soon."""
        wanted -= sum(one in hat for one in self._resting)
        for _ in range(min(wanted, len(hat))):
            if (lender := hat.draw(self._resting, busy=busy)) is None:
                return
            self._resting[lender] = now + REST_SECONDS
            lender.rest()
