"""Acknowledgements that nothing has carried yet: said together, a little later."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Acknowledging(Protocol):
    """A link."""

    def acknowledge(self) -> None: ...


class Unsaid:
    """Links that may have an acknowledgement to say, which nothing has carried yet. One timer for all of them."""

    SECONDS = 0.5

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._links: set[Acknowledging] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, link: Acknowledging) -> None:
        self._links.add(link)
        if self._timer is None:
            self._timer = self._loop.call_later(self.SECONDS, self._say)

    def discard(self, link: Acknowledging) -> None:
        self._links.discard(link)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        self._links.clear()

    def _say(self) -> None:
        links, self._links, self._timer = self._links, set(), None
        for link in links:
            link.acknowledge()
