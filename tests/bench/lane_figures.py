"""What the bench measures of relayed connections: plain values, like `figures`."""

from __future__ import annotations

import msgspec


class RelayPlan(msgspec.Struct, frozen=True):
    """How much each lane of the relay gets to do in a round."""

    rounds: int
    trips: int = 3000
    rate_seconds: float = 0.5
    bulk_bytes: int = 1 << 29
    idle: tuple[int, ...] = ()
    """Numbers of idle connections to measure memory with."""


DIRECT, RIVAL, MIDSTREAM = "direct", "HAProxy", "Midstream"
RIVAL_TLS, MIDSTREAM_TLS = "HAProxy, TLS", "Midstream, TLS"
LANES = (DIRECT, RIVAL, MIDSTREAM, RIVAL_TLS, MIDSTREAM_TLS)
"""TLS is between the two proxies; in the other lanes they speak cleartext."""


class Lane(msgspec.Struct, frozen=True):
    """One lane in one round."""

    p50: float
    """A round trip of 64 bytes, seconds, on one connection."""
    p99: float
    requests: float
    """A second, of 64 bytes, on 64 connections, each with one under way."""
    bits: float
    """A second, in bulk, on one connection."""
    request_cpu: float
    """Processor seconds of both proxies a request, at that rate."""
    gib_cpu: float
    """And a GiB in bulk."""


class Idle(msgspec.Struct, frozen=True):
    """The two proxies' resident bytes without and with so many idle connections."""

    lane: str
    flows: int
    before: list[int]
    after: list[int]

    @property
    def each(self) -> float:
        """Bytes a connection, of both proxies together."""
        return (sum(self.after) - sum(self.before)) / self.flows


class Relay(msgspec.Struct, frozen=True):
    """What it costs to be relayed after a move."""

    rounds: list[dict[str, Lane]]
    idle: list[Idle]
