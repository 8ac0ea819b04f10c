"""The initiator's end of a link: it dials, and dials again when a connection breaks, until it is given up. While it is
asleep nobody dials; when it has something to carry, or the other end rings (`proxy.io.bell`), it waits for its turn.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Protocol

from proxy.core import wire
from proxy.core.errors import Code
from proxy.core.link import Event, State, step
from proxy.core.stream import Mark
from proxy.core.wire import NO_FLOW, Fault, Join, Open, Resume, Switch, WireError
from proxy.io.bell import Bell
from proxy.io.context import Context, count
from proxy.io.dialling import DialledConnection, Lost
from proxy.io.link import Link
from proxy.io.pool import LinkPool

log = logging.getLogger(__name__)

LINK_BITS = 63


class Owner(Protocol):
    """Who asked for the link."""

    def link_ready(self, link: InitiatedLink) -> None:
        """It has a connection, the first: what is given now goes out."""

    def link_accepted(self, link: InitiatedLink) -> None:
        """The other end knows the flow and has the link."""

    def link_denied(self, link: InitiatedLink, lost: Lost) -> None:
        """It could not be had, so nothing went over it: refused, or not to be reached for too long."""


class InitiatedLink(Link):
    """Asks for its connections by itself. The frame that named it is said again until the answer to it has come."""

    SOONEST_SECONDS, LATEST_SECONDS = 0.05, 1.0
    """Before the first attempt to make it again, and between later ones."""
    GONE_SECONDS = 2.0
    """So long a port may be closed: then the proxy that had the flows is dead."""
    FAREWELL_SECONDS, SELDOM_SECONDS = 900.0, 10.0
    """So long a flow that is waited for is said to be lost, and so seldom in the end: as long as a kernel says again
    what nobody acknowledges (tcp_retries2)."""

    def __init__(
        self, context: Context, pool: LinkPool, opening: Join | Open | Switch | wire.Bell, owner: Owner
    ) -> None:
        super().__init__(context, opening.link, str(pool.destination))
        self.accepted = False
        """The other end has it."""
        self.pool = self.group = pool
        self._opening = opening
        self._owner: Owner | None = owner
        self._dialled: DialledConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._interval, self._longest_interval = self.SOONEST_SECONDS, self.LATEST_SECONDS
        self._asked_at = self._give_up_at = 0.0
        self._closed_since = 0.0
        self._has_asked = self._resuming = False
        self._in_step = False
        """It was asleep, and the next connection is the first one since: each end knows how much the other one has."""
        self._asks = False
        """It waits for its turn to have a connection."""
        self._mends = False
        """The connection that it asks for takes the place of one that broke."""
        self._is_called = False
        """It is to be woken as soon as it is asleep."""
        self._yields = False
        """The other end needs its descriptor: the connection is of no more use to anybody."""
        self._waits = False
        """For `dial`: it was reserved, and nobody may need it."""
        self._ready = False
        """Its owner knows that it has a connection."""
        self._carrier: DialledConnection | None = None

    def be_reserved(self) -> None:
        """The other end has it, for a flow that nobody knows yet (`proxy.io.reserved`)."""
        self._waits = True

    def be_asleep(self) -> None:
        super().be_asleep()
        self._waits = self.accepted = True
        self.bell.add(self)

    def be_for(self, flow: int, owner: Owner) -> None:
        """This is the flow that it was reserved for. Nothing is sent before `dial`."""
        self._opening, self._owner, self._ready = Join(flow, self.number), owner, False

    def dial(self, patience_seconds: float) -> None:
        """For the first time. Its owner hears link_ready (perhaps at once) and link_accepted, or link_denied."""
        self._give_up_at = self.context.loop.time() + patience_seconds
        waited, self._waits = self._waits, False
        if waited and self.state in (State.CARRYING, State.ASLEEP):
            self._tell_ready()
        else:
            self._ask()

    def _tell_ready(self) -> None:
        if self._owner and not self._ready:
            self._ready = True
            self._owner.link_ready(self)

    def _ask(self) -> None:
        self._timer = None
        # If nothing has come, the other end may not know it, and need not: the first frame says the same once more.
        self._resuming = self.incoming.received > 0 or (self.accepted and not isinstance(self._opening, Join))
        named = Resume(self._opening.flow, self.number, self.incoming.received) if self._resuming else self._opening
        self._mends, self._asked_at = self.state is State.BROKEN, self.context.loop.time()
        self._asks, self._yields = True, False
        self.pool.ask(named, self, fresh=self._has_asked and not self._in_step)

    # What its dialled connection says

    def link_dialled(self, dialled: DialledConnection) -> None:
        """Its turn has come: that it had to wait for that is no failure."""
        self._dialled, self._asks = dialled, False
        self._give_up_at += self.context.loop.time() - self._asked_at

    def link_sendable(self, dialled: DialledConnection) -> None:
        """A stream that nothing has been sent of need not wait for the answer, nor does one that had slept."""
        early = self._in_step or not (self._has_asked or self._resuming or isinstance(self._opening, Switch))
        self._has_asked, self._in_step = True, False
        if early and dialled.connection:
            dialled.hand_over()
            self._carrier = dialled
            self.carry(dialled.connection, self._sent, reads=False)
            self._tell_ready()

    def link_accepted(self, received: int, rest: bytes) -> None:
        dialled, self._dialled = self._dialled, None
        assert dialled
        connection = dialled.connection
        if connection is None or self.state is State.OVER:
            return
        again = self.accepted and self._mends
        self._carrier = dialled
        try:
            if connection is not self._line.connection:
                self.carry(connection, received, reads=False)
        except WireError as error:
            connection.close()
            self._distrust(error)
            return
        self.accepted = True
        self._interval, self._closed_since = self.SOONEST_SECONDS, 0.0
        if again:
            count(self.context.totals.links_broken, "resumed")
        self._tell_ready()
        owner, self._owner = self._owner, None
        if owner:
            owner.link_accepted(self)
        self.read(rest)

    def link_lost(self, lost: Lost) -> None:
        self._dialled, self._asks, self._in_step = None, False, False
        if self.state is State.OVER:
            return
        if lost.final:
            self._deny(lost)
        elif self.state in (State.CARRYING, State.CLOSING):
            self._broken(lost.why)
        else:
            self._try_again(lost)

    # Its connection, for another link

    def _free(self) -> bool:
        """FREE comes, or the end does."""
        self.state = step(self.state, Event.FINISHED)
        return True

    def _heed(self, turn: Mark) -> None:
        self.incoming.turn = None
        if turn is Mark.YIELD:
            self._yields = True
            if self.may_rest:
                self.rest()
            self.pool.be_crowded()
        elif turn is Mark.FREE and self._drowsy:
            self._be_lent()
        elif turn is Mark.FREE and self.state is State.CLOSING:
            self._be_freed()
        else:
            self._distrust(WireError(Fault.ORDER))

    def _be_freed(self) -> None:
        """Where one of its connections broke before the other end saw it, this one has been half closed meanwhile."""
        carrier = self._carrier
        if not self._clean:
            self._over(Event.FREED)
        elif self._leave() and carrier:
            carrier.come_back()

    # Its sleep

    @property
    def bell(self) -> Bell:
        """By which the other end says that it is to be woken."""
        return bell_of(self.context, self.pool)

    @property
    def may_rest(self) -> bool:
        return super().may_rest and self.accepted and self._dialled is None

    def rest(self) -> None:
        self.bell.add(self)
        self._doze(Mark.SLEEP)

    def _dozes(self) -> None:
        """FREE comes."""

    def _be_lent(self) -> None:
        carrier, yields, self._yields = self._carrier, self._yields, False
        self._fall_asleep()
        if carrier:
            carrier.come_back(of_use=not yields)
        called, self._is_called = self._is_called, False
        if called:
            self._stir()
        else:
            self._turn_over()

    def wake(self) -> None:
        """The other end has rung: it has something to carry. That may come before its FREE, by another connection."""
        if self._drowsy:
            self._is_called = True
        else:
            self._stir()

    def _rouse(self) -> None:
        self._in_step = True
        self._give_up_at = self.context.loop.time() + self.pool.relink_seconds
        self._interval, self._closed_since = self.SOONEST_SECONDS, 0.0
        self._ask()

    # Another connection

    def _renew(self, reason: str) -> None:
        if self._waits:
            return
        if self._dialled:  # broke before the answer to its frame had come
            self.pool.withdraw(self, self._dialled)
            self._dialled = None
        self._give_up_at = self.context.loop.time() + self.pool.relink_seconds
        self._interval, self._closed_since = self.SOONEST_SECONDS, 0.0
        self._later(reason)

    def _try_again(self, lost: Lost) -> None:
        now = self.context.loop.time()
        if not lost.port_closed:
            self._closed_since = 0.0
        elif not self._closed_since:
            self._closed_since = now
        known = self._has_asked or self._owner is None
        gone = known and self._closed_since and now - self._closed_since >= self.GONE_SECONDS
        if gone or now >= self._give_up_at or self._is_pointless:
            self._deny(lost)
        else:
            self._later(lost.why)

    @property
    def _is_pointless(self) -> bool:
        """The flow was reset before anybody at the other end knew of it, or of a further link."""
        return not (self._has_asked or self.accepted or self._is_awaited) and self.outgoing.mark is Mark.RESET

    @property
    def _is_awaited(self) -> bool:
        """The other end has the flow, and waits for a link, however long that takes."""
        return isinstance(self._opening, Join) and self._opening.flow != NO_FLOW

    def _later(self, reason: str) -> None:
        self._timer = self.context.loop.call_later(self._interval, self._ask)
        self._interval = min(2 * self._interval, self._longest_interval)

    def _deny(self, lost: Lost) -> None:
        owner, self._owner = self._owner, None
        if not owner or (self.accepted and self._ready):  # one that was reserved is accepted, and may not be ready
            self.lose(lost.why)
            return
        if self._is_awaited and not (lost.final or lost.port_closed):
            self._say_farewell(lost.why)
        else:
            self.close()
        owner.link_denied(self, lost)

    def _say_farewell(self, reason: str) -> None:
        """Nobody waits for it here any more; the other end does, and is to hear that, when it can be reached."""
        self.reset()
        self._give_up_at = self.context.loop.time() + self.FAREWELL_SECONDS
        self._longest_interval = self.SELDOM_SECONDS
        self._later(reason)

    def _over(self, event: Event) -> None:
        super()._over(event)
        if self._timer:
            self._timer.cancel()
        if self._asks or self._dialled:
            self.pool.withdraw(self, self._dialled)
        self._timer = self._dialled = self._owner = self._carrier = None
        if self.pool.bell:
            self.pool.bell.discard(self)


def bell_of(context: Context, pool: LinkPool) -> Bell:
    """The pool's, which is hung when it is needed."""

    def hang(bell: Bell) -> InitiatedLink:
        link = InitiatedLink(context, pool, wire.Bell(NO_FLOW, number()), bell)
        link.stay()
        link.dial(pool.relink_seconds)
        return link

    if pool.bell is None:
        pool.bell = Bell(hang)
    return pool.bell


def number() -> int:
    return secrets.randbits(LINK_BITS)


UNKNOWN = Code.CONFLICT.name.lower()
"""With it the acceptor refuses a flow that it does not know."""
