"""When a flow's route goes: not with the flow, but a little later, many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable

from proxy.core.errors import ProxyError
from proxy.sys.routing import Routing

log = logging.getLogger(__name__)

RETIRE_SECONDS = 5.0
"""A flow's last acknowledgements still have to find the app leg; the real peer would answer them with RST."""


class Retirement:
    """Keys of flows that have ended, waiting to be taken out of the routing; takes it down after the last one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, routing: Routing) -> None:
        self._loop = loop
        self._routing = routing
        self._used: Counter[bytes] = Counter()
        """By how many flows: two have the same ends for a moment where a peer comes again from the same port."""
        self._due: dict[bytes, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._open_migrations = 0

    def use(self, keys: Iterable[bytes]) -> None:
        """Route these flows from now on. Raises ROUTING_FAILED."""
        keys = list(keys)
        self._routing.change(keys)
        self._used.update(keys)
        for key in keys:
            self._due.pop(key, None)

    def retire(self, key: bytes) -> None:
        """Stop routing this flow soon, unless another one has the same ends."""
        self._used[key] -= 1
        if self._used[key] > 0:
            return
        del self._used[key]
        self._due[key] = self._loop.time() + RETIRE_SECONDS
        if self._timer is None:
            self._timer = self._loop.call_later(RETIRE_SECONDS, self._sweep)

    def begin(self) -> None:
        """A migration needs the routing. Raises ROUTING_FAILED."""
        self._routing.set_up()
        self._open_migrations += 1

    def end(self) -> None:
        """A migration needs it no more."""
        self._open_migrations -= 1
        self._tear_down_if_idle()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        self._routing.tear_down()
        self._routing.close()

    def _sweep(self) -> None:
        now = self._loop.time()
        keys = [key for key, due in self._due.items() if due <= now]
        for key in keys:
            del self._due[key]
        try:
            self._routing.change((), keys)
        except ProxyError as error:
            log.warning("%s", error)
        self._timer = None
        if self._due:
            self._timer = self._loop.call_later(max(0.0, min(self._due.values()) - now) + 0.25, self._sweep)
        self._tear_down_if_idle()

    def _tear_down_if_idle(self) -> None:
        if self._open_migrations or self._due or self._routing.flows:
            return
        try:
            self._routing.tear_down()
        except ProxyError as error:
            log.warning("%s", error)
