"""When a flow's route goes: as soon as its two ends in this pod need it no more, many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.core.errors import ProxyError
from proxy.core.ledger import TcpState
from proxy.sys import nftables
from proxy.sys.routing import Routing
from proxy.sys.tcp_states import Ends

log = logging.getLogger(__name__)

SOONEST_SECONDS, LATEST_SECONDS = 0.01, 1.0
"""After a flow's end, before the first look at its sockets, and the most between two of them."""
_GONE = (None, TcpState.CLOSE)
_HEARD_LAST = (TcpState.LAST_ACK, TcpState.CLOSING)


def is_needed(ends: Ends) -> bool:
    """Whether what the workload's end still says has to find the app leg, which is the other end.

    As long as the leg lives: one that is to be reset waits for its last bytes to arrive (`proxy.io.drainer`). And while
    it remembers its end (TIME_WAIT), for a workload that has not heard the acknowledgement of its FIN: the peer itself
    would answer with RST. Otherwise the workload has nothing to say in this flow; but it may have in another one, for
    the peer can connect to it from the same port directly, and until the route is gone it is not answered.
    """
    if ends.peer is TcpState.TIME_WAIT:
        return ends.app in _HEARD_LAST
    return ends.peer not in _GONE


@dataclass
class _Due:
    at: float
    wait_seconds: float


class Retirement:
    """Keys of flows that have ended, waiting to be taken out of the routing; takes it down after the last one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, routing: Routing) -> None:
        self._loop = loop
        self._routing = routing
        self._used: Counter[bytes] = Counter()
        """By how many flows: two have the same ends for a moment where a peer comes again from the same port."""
        self._due: dict[bytes, _Due] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        """When it is due: what uvloop gives for now does not say."""
        self._open_migrations = 0

    def clear_away(self) -> None:
        """Before the first migration: what is left of another proxy's serves nobody."""
        try:
            if aborted := self._routing.clear_away():
                log.warning("%d connections had lost their proxy, and were aborted", aborted)
        except ProxyError as error:
            log.warning("%s", error)

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
        self._look_in(SOONEST_SECONDS, key)

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
        self._timer = None
        now = self._loop.time()
        looked_at = [key for key, due in self._due.items() if due.at <= now]
        needed = set[bytes]()
        try:
            needed = self._needed(looked_at)
            self._routing.change((), set(looked_at) - needed)
        except ProxyError as error:
            log.warning("%s", error)
        for key in looked_at:
            due = self._due.pop(key)
            if key in needed:
                self._look_in(min(2 * due.wait_seconds, LATEST_SECONDS), key)
        if self._due:
            self._sweep_at(min(due.at for due in self._due.values()))
        self._tear_down_if_idle()

    def _needed(self, keys: list[bytes]) -> set[bytes]:
        """Those that may not be taken out yet; datagrams have nothing to wait for. Raises ROUTING_FAILED."""
        flows = [key for key in keys if not nftables.is_of_datagrams(key)]
        return {key for key, ends in zip(flows, self._routing.ends(flows), strict=True) if is_needed(ends)}

    def _look_in(self, seconds: float, key: bytes) -> None:
        self._due[key] = _Due(self._loop.time() + seconds, seconds)
        self._sweep_at(self._due[key].at)

    def _sweep_at(self, at: float) -> None:
        if self._timer and self._next <= at:
            return
        if self._timer:
            self._timer.cancel()
        self._timer, self._next = self._loop.call_at(at, self._sweep), at

    def _tear_down_if_idle(self) -> None:
        if self._open_migrations or self._due or self._routing.flows:
            return
        try:
            self._routing.tear_down()
        except ProxyError as error:
            log.warning("%s", error)
