"""What every flow needs of its surroundings: the loop, the kernel, and what all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from proxy.api import Endpoint
from proxy.core.datagram import Datagram
from proxy.core.link import State
from proxy.io.askers import Askers
from proxy.io.connection import Tls
from proxy.io.drainer import Drainer
from proxy.io.lending import Lending
from proxy.io.poller import Poller
from proxy.io.relay import Scratch
from proxy.io.unsaid import Unsaid
from proxy.sys import limits
from proxy.sys.kernel import Kernel


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
    links_lent: int = 0
    """How often a link has given up its connection for a while."""
    adopt_seconds: float = 0.0
    build_seconds: float = 0.0
    resume_seconds: float = 0.0
    repoint_seconds: float = 0.0


class Inherited(Protocol):
    """A flow whose app leg is here."""

    number: int
    via: str
    """The proxy that has the peer leg."""


class Listening(Protocol):
    """Who hears what UDP sockets say first (`proxy.io.first_words`)."""

    def listen(self, app: Endpoint, heard: Callable[[Datagram], None]) -> None: ...
    def forget(self, app: Endpoint, heard: Callable[[Datagram], None]) -> None: ...


class Closable(Protocol):
    """A link (`proxy.io.link`)."""

    state: State

    def close(self) -> None: ...


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
    links: set[Closable] = field(default_factory=set)
    """All that are not over: some outlive their flow for a moment."""
    unsaid: Unsaid = field(init=False)
    lending: Lending = field(init=False)
    askers: Askers = field(init=False)
    """Of UDP sockets."""
    first_words: Listening | None = None
    """None: they are not heard."""

    def __post_init__(self) -> None:
        self.unsaid = Unsaid(self.loop)
        self.lending = Lending(self.loop, lambda: limits.spare_descriptors(self.kernel))
        self.askers = Askers(self.loop)

    @classmethod
    def here(cls, kernel: Kernel, tls: Tls | None = None) -> Context:
        """For the running loop."""
        loop = asyncio.get_running_loop()
        return cls(loop, kernel, Drainer(loop, kernel), Poller(loop), tls=tls)

    def close_links(self) -> None:
        for link in list(self.links):
            link.close()
        self.unsaid.close()
        self.lending.close()
