"""What every flow needs of its surroundings: the loop, the kernel, the shared buffer, and one that waits for drains."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from proxy.api import Endpoint
from proxy.core.ledger import TcpState
from proxy.io.poller import Poller
from proxy.io.relay import Scratch, reset
from proxy.sys import options
from proxy.sys.kernel import Kernel

if TYPE_CHECKING:
    from proxy.io.carrier import Carrier
    from proxy.io.connection import Tls


@dataclass
class Totals:
    """Counters since the start, for the metrics."""

    flows_adopted: int = 0
    flows_accepted: int = 0
    legs_built: int = 0
    flows_ended: dict[str, int] = field(default_factory=dict)
    to_app_bytes: int = 0
    to_peer_bytes: int = 0
    links_refused: dict[str, int] = field(default_factory=dict)
    links_broken: dict[str, int] = field(default_factory=dict)
    """How often a link broke, was made again ("resumed", at either end), and was lost."""
    adopt_seconds: float = 0.0
    build_seconds: float = 0.0
    resume_seconds: float = 0.0
    repoint_seconds: float = 0.0


class Inherited(Protocol):
    """A flow whose app leg is here."""

    number: int
    via: str
    """The proxy that has the peer leg."""


def count(counters: dict[str, int], key: str) -> None:
    counters[key] = counters.get(key, 0) + 1


@dataclass
class Context:
    loop: asyncio.AbstractEventLoop
    kernel: Kernel
    drainer: Drainer
    poller: Poller
    scratch: Scratch = field(default_factory=Scratch)
    totals: Totals = field(default_factory=Totals)
    legs: dict[tuple[Endpoint, Endpoint], Inherited] = field(default_factory=dict)
    """The workload's and the peer's end of each flow with its app leg here; what is adopted may be the other end."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a flow has ended."""
    tls: Tls | None = None
    """None: links are in cleartext."""
    links: set[Carrier] = field(default_factory=set)
    """All that are not over: some outlive their flow for a moment."""
    unsaid: Unsaid = field(init=False)

    def __post_init__(self) -> None:
        self.unsaid = Unsaid(self.loop)

    @classmethod
    def here(cls, kernel: Kernel, tls: Tls | None = None) -> Context:
        """For the running loop."""
        loop = asyncio.get_running_loop()
        return cls(loop, kernel, Drainer(loop, kernel), Poller(loop), tls=tls)

    def close_links(self) -> None:
        for link in list(self.links):
            link.close()
        self.unsaid.close()


class Unsaid:
    """Links that may have an acknowledgement to say, which nothing has carried yet. One timer for all of them."""

    SECONDS = 0.5

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._links: set[Carrier] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, link: Carrier) -> None:
        self._links.add(link)
        if self._timer is None:
            self._timer = self._loop.call_later(self.SECONDS, self._say)

    def discard(self, link: Carrier) -> None:
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


@dataclass(eq=False)
class _Draining:
    sock: socket.socket
    drained: Callable[[], None]
    deadline: float


class Drainer:
    """Waits until a socket's other end has acknowledged everything. The kernel does not announce that, so it is asked:
    soon at first, then more and more seldom while nothing changes. One timer, and only while somebody waits."""

    SOONEST_SECONDS, LATEST_SECONDS = 0.01, 1.0
    RESET_SECONDS = 1.0
    """How long a reset waits for the bytes before it: a reset throws away what is unsent, which the sender had sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kernel: Kernel) -> None:
        self._loop = loop
        self._kernel = kernel
        self._waiting: list[_Draining] = []
        self._interval = self.SOONEST_SECONDS
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, sock: socket.socket, drained: Callable[[], None]) -> None:
        """Call `drained` once nothing is left to be acknowledged, or the connection is gone."""
        self._add(_Draining(sock, drained, float("inf")))

    def reset(self, sock: socket.socket) -> None:
        """Reset the connection when its last bytes have arrived, or after a second."""
        if self._is_drained(sock):
            reset(sock)
        else:
            self._add(_Draining(sock, lambda: reset(sock), self._loop.time() + self.RESET_SECONDS))

    def forget(self, sock: socket.socket) -> None:
        self._waiting = [entry for entry in self._waiting if entry.sock is not sock]

    def close(self) -> None:
        """Stop waiting; what still drains is closed by its owner, and the kernel goes on by itself."""
        if self._timer:
            self._timer.cancel()
        self._timer = None
        for entry in self._waiting:
            if entry.deadline != float("inf"):
                reset(entry.sock)
        self._waiting.clear()

    def _add(self, entry: _Draining) -> None:
        self._waiting.append(entry)
        if self._timer:
            self._timer.cancel()
        self._interval = self.SOONEST_SECONDS
        self._timer = self._loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        done = [entry for entry in self._waiting if now >= entry.deadline or self._is_drained(entry.sock)]
        self._waiting = [entry for entry in self._waiting if entry not in done]
        self._interval = self.SOONEST_SECONDS if done else min(2 * self._interval, self.LATEST_SECONDS)
        self._timer = self._loop.call_later(self._interval, self._look) if self._waiting else None
        for entry in done:
            entry.drained()

    def _is_drained(self, sock: socket.socket) -> bool:
        try:
            if not self._kernel.queued(sock, options.SIOCOUTQ):
                return True
            info = self._kernel.get_bytes(sock, options.SOL_TCP, options.TCP_INFO, options.INFO_BYTES)
        except OSError:
            return True
        return info[options.INFO_STATE] == TcpState.CLOSE
