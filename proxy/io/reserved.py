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

    @property
    def ready(self) -> int:
        return len(self._ready)

    async def prepare(self, count: int) -> None:
        """Have so many. Raises LINK_FAILED with the reason."""
        while (count > 0 or self._asked) and not self._why_lost:
            if count > 0 and len(self._asked) < LinkPool.AT_ONCE:
                self._ask()
                count -= 1
                continue
            self._changed.clear()
            await self._changed.wait()
        if self._why_lost:
            raise ProxyError(Code.LINK_FAILED, f"link to {self._pool.destination}: {self._why_lost}")

    def _ask(self) -> None:
        link = InitiatedLink(self._context, self._pool, Join(NO_FLOW, initiated.number()), self)
        self._asked.add(link)
        link.dial(self.PATIENCE_SECONDS)

    def take(self) -> InitiatedLink | None:
        """One that is some flow's from now on, if there is one: the flow's leg says so to the other end."""
        while self._ready:
            if not (link := self._ready.popleft()).is_over:
                return link
        return None

    def close(self) -> None:
        """Those that nobody took are for nobody."""
        for link in (*self._asked, *self._ready):
            link.close()
        self._asked.clear()
        self._ready.clear()

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
