"""By which way the peers of UDP sockets ask: an answer goes out by the way that its question came.

A datagram may come back to the pod that it was relayed from, for the workload has come home meanwhile. A stand-in that
heard the answers to it would send them off by a way that nobody waits at: who asked here is answered from here.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass, field

from proxy.api import Endpoint
from proxy.sys.nftables import DIRECT_SECONDS

IDLE_SECONDS = float(DIRECT_SECONDS)
"""A peer that was silent so long, and heard nothing, is forgotten: the workload's next word to it is native."""
MAX_DIRECT = 65536  # the one that was silent longest makes room

Ends = tuple[Endpoint, Endpoint]
"""The workload's and the peer's, as packets have them in this pod."""


@dataclass
class StandIn:
    """A socket with a peer's address, which hears what the workload answers it."""

    sock: socket.socket
    key: bytes
    """Of the routing."""
    used_at: float
    lasting: bool
    """The workload's socket is connected to the peer."""


@dataclass
class Askers:
    """Those of one pod."""

    loop: asyncio.AbstractEventLoop
    stand_ins: dict[Ends, StandIn] = field(default_factory=dict)
    """At most one for the same two ends: two would hear each other's answers."""
    relayed: Counter[int] = field(default_factory=Counter)
    """How many sockets are relayed from here, by port: where a workload's are, it comes home."""
    connected: set[Ends] = field(default_factory=set)
    """Of sockets that are relayed from here, and were connected by the workload: it spoke from here."""
    _heard_at: dict[Ends, float] = field(default_factory=dict)
    """The oldest first."""

    def heard(self, ends: Ends) -> None:
        """A peer itself has asked here, and is relayed from here."""
        self._heard_at.pop(ends, None)
        if len(self._heard_at) >= MAX_DIRECT:
            del self._heard_at[next(iter(self._heard_at))]
        self._heard_at[ends] = self.loop.time()

    def is_direct(self, ends: Ends) -> bool:
        """Whether the workload's answers to that peer are native, if it is in this pod."""
        heard_at = self._heard_at.get(ends)
        return ends in self.connected or (heard_at is not None and self.loop.time() - heard_at <= IDLE_SECONDS)
