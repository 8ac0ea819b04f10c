"""A migration's connections that carry no link yet, and the dialling of more."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from math import ceil

from proxy.api import DIAL_SECONDS, DIAL_SECONDS_EACH, Endpoint
from proxy.core import handshake, wire
from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Dialling
from proxy.core.wire import Asking, Hello, Watch, encode
from proxy.io.bell import Bell
from proxy.io.connection import why
from proxy.io.context import Context
from proxy.io.dialling import DialledConnection, LinkUser, Lost
from proxy.sys import limits

ONCE = wire.Bell, Watch
"""What is asked for once, and not for each link."""


class LinkPool:
    """A migration's connections that carry no link yet, and the dialling of more."""

    PREPARE_SECONDS, SECONDS_EACH = DIAL_SECONDS, DIAL_SECONDS_EACH
    AT_FIRST, AT_ONCE, QUICK_SECONDS = 16, 128, 0.5
    """So many are dialled at the same time: in the beginning, and at most, for each that was quickly greeted makes room
    for another. Of thousands each would wait too long for its turn, on a slow machine of a hundred already; and the
    memory that handshakes take at the same time stays the process's."""
    SPARES, SPARE_SECONDS = 16, 30.0
    """Standing by: so many connections are had beforehand, until none has been asked for for so long."""
    BUSY = 64
    """So many are dialled at the same time for those who ask; who comes after them waits for one of these, or for one
    that comes back. Were all dialled for at once, a machine too busy for so many handshakes would end few in time."""
    CROWDED_SECONDS, TRY_SECONDS = 60.0, 1.0
    """So long after the other end has wanted a descriptor back nobody is dialled for, which would cost it another; but
    for one in so long, for it may have some again."""
    REFILL_SECONDS = 0.05
    """Between two that are dialled for that: a handshake takes milliseconds of both machines; flows need them more."""

    def __init__(
        self, context: Context, destination: Endpoint, migration: str, token: bytes, relink_seconds: float = 10.0
    ) -> None:
        self.destination = destination
        self.relink_seconds = relink_seconds
        """So long a link that breaks is dialled again."""
        self.session: ssl.SSLSession | None = None
        self._context = context
        self._migration = migration
        self._token = token
        self._idle: deque[DialledConnection] = deque()
        self._greeting: set[DialledConnection] = set()
        self._asked: set[DialledConnection] = set()
        """Those that were dialled for somebody, until they are greeted."""
        self._crowded_until = self._tries_at = 0.0
        self._waiting: deque[tuple[Asking, LinkUser]] = deque()
        self._changed = asyncio.Event()
        self._why_lost = ""
        self._preparing = False
        self._at_once = min(self.AT_FIRST, self.AT_ONCE)
        self._retreat: asyncio.TimerHandle | None = None
        """Set while it stands by."""
        self.bell: Bell | None = None
        """By which the other end has links woken."""
        self._refilling: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        return len(self._idle)

    def hello(self, nonce: bytes) -> bytes:
        return encode(Hello(self._migration, handshake.proof(self._token, nonce, self._migration)))

    def proved(self, nonce: bytes, hello: Hello) -> bool:
        """Whether that HELLO is one that this pool could have said."""
        return hello.migration == self._migration and handshake.proves(self._token, nonce, hello)

    async def prepare(self, links: int) -> None:
        """Have that many connections greeted and idle. Raises LINK_FAILED with the reason."""
        self._why_lost, self._preparing = "", True
        try:
            async with asyncio.timeout(self.PREPARE_SECONDS + links * self.SECONDS_EACH):
                await self._greet(min(links, 1))  # the others' TLS handshakes are short, with its session
                await self._greet(links - 1)
        except TimeoutError:
            self._why_lost = self._why_lost or "no answer in time"
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._preparing = False
        if self._why_lost:
            self.close()
            raise ProxyError(Code.LINK_FAILED, f"link to {self.destination}: {self._why_lost}")

    async def _greet(self, links: int) -> None:
        while (links or self._greeting) and not self._why_lost:
            if links and len(self._greeting) < self._at_once:
                try:
                    self._greeting.add(self._dial())
                except OSError as error:
                    self._why_lost = why(error)
                links -= 1
                continue
            self._changed.clear()
            await self._changed.wait()

    def ask(self, frame: Asking, user: LinkUser, *, fresh: bool = False) -> None:
        """Name a link on an idle connection, or on one dialled for it; `fresh`: the idle ones may be broken too, and
        whoever asks has waited already.

        The user hears of it at once, or once it is his turn: when there is a descriptor, or one is lent.
        """
        if self._idle and not fresh:
            self._idle.popleft().ask(frame, user)
        elif not (fresh or len(self._asked) < self.BUSY) or not self._dial_for(frame, user, counted=not fresh):
            self._wait(frame, user, first=fresh)
        if self._retreat and not fresh:
            self._stay()

    def _dial_for(self, frame: Asking, user: LinkUser, *, counted: bool = True) -> bool:
        """Whether there was a descriptor, as there is for whatever is asked for `ONCE`."""
        if not (self._may_dial or isinstance(frame, ONCE)):
            return False
        try:
            connection = self._dial()
        except OSError as error:
            if error.errno in limits.EXHAUSTED:
                return False
            self._context.loop.call_soon(user.link_lost, Lost(why(error)))
            return True
        self._tries_at = self._context.loop.time() + self.TRY_SECONDS
        if counted:
            self._asked.add(connection)
        connection.ask(frame, user)
        return True

    def _wait(self, frame: Asking, user: LinkUser, *, first: bool) -> None:
        if first:
            self._waiting.appendleft((frame, user))
        else:
            self._waiting.append((frame, user))
        if len(self._asked) < self.BUSY:
            self._context.lending.seek(self)

    @property
    def wanted(self) -> int:
        """So many wait for a descriptor."""
        return len(self._waiting) - len(self._asked)

    def be_crowded(self) -> None:
        """The other end has no descriptors left: for a while whoever waits here has what others give up, but for one
        now and then."""
        now = self._context.loop.time()
        self._crowded_until, self._tries_at = now + self.CROWDED_SECONDS, now + self.TRY_SECONDS

    @property
    def is_crowded(self) -> bool:
        now = self._context.loop.time()
        return now < self._crowded_until and now < self._tries_at and self._context.lending.of(self) > 0

    @property
    def _may_dial(self) -> bool:
        """Whether there is a descriptor for it, at either end as far as is known."""
        return not self.is_crowded and self._context.lending.take()

    def go_on(self) -> None:
        """There may be descriptors."""
        self._serve()

    def withdraw(self, user: LinkUser, connection: DialledConnection | None) -> None:
        """The user wants none any more; `connection` is the one that it has been given, if it was."""
        if connection:
            connection.abandon()
            self._asked.discard(connection)
        elif self._waiting:
            self._waiting = deque(one for one in self._waiting if one[1] is not user)
        self._serve()

    def _serve(self) -> None:
        """Those who wait, as far as it may be dialled for them."""
        while self._waiting and len(self._asked) < self.BUSY:
            frame, user = self._waiting.popleft()
            if not self._dial_for(frame, user):
                self._wait(frame, user, first=True)
                return

    def stand_by(self, spares: int = 0) -> None:
        """From now on have some connections ready for those who come: they do not wait for TLS's handshake, then. Of
        those that are there so many stay, if it is more.

        Those whose links are over come back, so short connections need no further ones at all.
        """
        while len(self._idle) > max(spares, self.SPARES):
            self._idle.pop().abandon()
        self._stay()

    def _stay(self) -> None:
        if self._retreat:
            self._retreat.cancel()
        self._retreat = self._context.loop.call_later(self.SPARE_SECONDS, self.close)
        self._refill_later()

    @property
    def has_room(self) -> bool:
        """Whether one that carries nothing any more is welcome."""
        return bool(self._waiting) or (self._retreat is not None and len(self._idle) < self.SPARES)

    def _refill_later(self) -> None:
        if self._refilling is None and len(self._idle) + len(self._greeting) < self.SPARES:
            self._refilling = self._context.loop.call_later(self.REFILL_SECONDS, self._refill)

    def _refill(self) -> None:
        self._refilling = None
        with contextlib.suppress(OSError):  # no descriptor left: they can be done without
            if len(self._idle) + len(self._greeting) < self.SPARES and self._may_dial:
                self._greeting.add(self._dial())
                self._refill_later()

    def _stop_refilling(self) -> None:
        """Until one is asked for again: nobody may be there."""
        if self._refilling:
            self._refilling.cancel()
        self._refilling = None

    def close(self) -> None:
        """Give up what carries nothing. What is asked for afterwards is dialled."""
        self._stop_refilling()
        if self._retreat:
            self._retreat.cancel()
        self._retreat = None
        for connection in (*self._idle, *self._greeting):
            connection.abandon()
        self._idle.clear()
        self._greeting.clear()

    def _dialled_anew(self) -> bool:
        """In place of one that nobody answered: nobody misses it yet, and there is time."""
        try:
            self._greeting.add(self._dial())
        except OSError:  # no descriptor left
            return False
        return True

    def _dial(self) -> DialledConnection:
        return DialledConnection(self._context, self)

    def changed(self, connection: DialledConnection) -> None:
        """Greeted, or lost."""
        self._greeting.discard(connection)
        if connection in self._asked:
            self._asked.discard(connection)
            if connection.lost:
                self._tell_some(connection.lost)
            self._serve()
        if connection.state is Dialling.IDLE:
            if self._context.loop.time() - connection.began < self.QUICK_SECONDS:
                self._at_once = min(self._at_once + 1, self.AT_ONCE)
            if self._waiting:
                connection.ask(*self._waiting.popleft())
            else:
                self._idle.append(connection)
        else:
            if connection in self._idle:
                self._idle.remove(connection)
            if connection.lost and not (self._preparing and connection.lost.late and self._dialled_anew()):
                self._why_lost = connection.lost.why
                self._stop_refilling()
        self._changed.set()

    def _tell_some(self, lost: Lost) -> None:
        """One that is lost speaks for its share of those who wait: they shall not learn it one by one."""
        share = [self._waiting.popleft() for _ in range(ceil(len(self._waiting) / self.BUSY))]
        for _, user in share:
            user.link_lost(lost)
