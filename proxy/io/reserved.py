"""Links that are made before anybody knows whose they will be: a freeze is no time to make links in."""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.core.errors import Code, ProxyError
from proxy.core.wire import NO_FLOW, Join
from proxy.io import initiated
from proxy.io.context import Context
from proxy.io.dialling import Lost
from proxy.io.initiated import InitiatedLink
from proxy.io.pool import LinkPool


class ReservedLinks:
    """One migration's, at its source: the destination's proxy has the other end of each, and waits for its leg."""

    PATIENCE_SECONDS = 5.0
    """So long a connection that breaks meanwhile is made again."""

    def __init__(self, context: Context, pool: LinkPool) -> None:
        self._context = context
        self._pool = pool
        self._asked: set[InitiatedLink] = set()
        self._ready: deque[InitiatedLink] = deque()
        self._changed = asyncio.Event()
        self._why_lost = ""
        self._lends = False
        """There are fewer than flows: the others get one that sleeps."""

    @property
    def ready(self) -> int:
        return len(self._ready)

    async def prepare(self, count: int, flows: int = 0) -> None:
        """Have so many, for so many flows. Raises LINK_FAILED with the reason."""
        self._lends = count < flows
        while (count > 0 or self._asked) and not self._why_lost:
            if count > 0 and len(self._asked) < LinkPool.AT_ONCE:
                self._ask()
                count -= 1
                continue
            self._changed.clear()
            await self._changed.wait()
        if self._lends and not self._why_lost:
            self._pool.be_crowded()
            if not await initiated.bell_of(self._context, self._pool).hang():
                self._why_lost = "nobody hears there what sleeps here"
        if self._why_lost:
            raise ProxyError(Code.LINK_FAILED, f"link to {self._pool.destination}: {self._why_lost}")

    def _ask(self) -> None:
        link = InitiatedLink(self._context, self._pool, Join(NO_FLOW, initiated.number()), self)
        self._asked.add(link)
        link.dial(self.PATIENCE_SECONDS)

    def take(self, flow: int) -> InitiatedLink | None:
        """The flow's from now on, if there is one: its leg says so to the other end."""
        while self._ready:
            if not (link := self._ready.popleft()).is_over:
                return link
        return self._asleep(flow) if self._lends else None

    def _asleep(self, flow: int) -> InitiatedLink:
        """One that has no connection before there is something to carry."""
        link = InitiatedLink(self._context, self._pool, Join(flow, initiated.number()), self)
        link.be_asleep()
        return link

    def close(self) -> None:
        """Those that nobody took are for nobody."""
        for link in (*self._asked, *self._ready):
            link.close()
        self._asked.clear()
        self._ready.clear()
        if self._pool.bell:
            self._pool.bell.settle()

    # What a link says to whoever asked for it

    def link_ready(self, link: InitiatedLink) -> None:
        """Nothing is said on it yet."""

    def link_accepted(self, link: InitiatedLink) -> None:
        link.be_reserved()
        self._asked.discard(link)
        self._ready.append(link)
        self._changed.set()

    def link_denied(self, link: InitiatedLink, lost: Lost) -> None:
        self._asked.discard(link)
        self._why_lost = lost.why
        self._changed.set()
