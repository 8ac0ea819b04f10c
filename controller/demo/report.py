"""What the load says, and what is concluded from it. Types and pure functions: no I/O, no clock.

The load is a process of its own in the client's pod; it prints one of these `Event`s a line, as JSON. All times are
CLOCK_MONOTONIC seconds, which every process and every network namespace of a machine shares: they can be compared with
the controller's own. (A time namespace would shift them; pods have none.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from controller.demo.result import Spread

Role = Literal["counter", "publisher", "subscriber", "bulk", "toucher"]
Loss = Literal["reset", "closed", "refused", "timeout", "unreachable", "corrupt", "silent"]
"""How a connection ended that should not have: "corrupt" is not RESP any more, "silent" is open but did not answer."""


class Silent(msgspec.Struct, frozen=True, array_like=True):
    """A time without one byte from the server, while a reply was due."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def overlaps(self, began: float, ended: float) -> bool:
        return self.began <= ended and self.ended >= began


class ConnectionReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the load's connections, at the end."""

    name: str
    role: Role
    replies: int = 0
    """Replies (a subscriber: messages) compared, right and wrong."""
    wrong: int = 0
    missing: int = 0
    """Replies or messages that never came."""
    bytes_sent: int = 0
    bytes_received: int = 0
    bytes_lost: int = 0
    """Owed by the server and never received, or received altered."""
    loss: Loss | None = None
    lost_at: float | None = None
    last_heard: float = 0.0
    silences: list[Silent] = []
    """The longest ones, longest first."""


class Probe(msgspec.Struct, frozen=True, array_like=True):
    """One new connection: when it began, when connect() was done, when its first reply was there."""

    began: float
    connected: float | None
    served: float | None
    loss: Loss | None = None


MISTAKES_KEPT = 10


class Mistake(msgspec.Struct, frozen=True):
    """A reply that was not what it had to be."""

    connection: str
    expected: str
    got: str


class Ready(msgspec.Struct, frozen=True, tag_field="event", tag="ready"):
    """Everything is connected and answers."""

    at: float
    connections: int


class Tick(msgspec.Struct, frozen=True, tag_field="event", tag="tick"):
    """How it goes, about ten times a second."""

    at: float
    requests: int
    """Replies and messages so far."""
    wrong: int
    open: int
    """Connections open now, probes not counted."""
    lost: int
    silence_seconds: float
    """The longest silence that is going on now."""
    probes: int
    probes_failed: int
    bulk_bytes: int
    """Bytes of bulk values, sent and received, so far."""


class Failed(msgspec.Struct, frozen=True, tag_field="event", tag="failed"):
    """The load could not begin."""

    message: str


class Report(msgspec.Struct, frozen=True, tag_field="event", tag="report"):
    """Everything, at the end."""

    host: str
    """The address that the load and its probes connect to: the one the workload had at first."""
    port: int
    began: float
    """When it was ready: silences before it were not kept."""
    ended: float
    cpu_seconds: float
    """Processor time the load itself used between the two."""
    connections: list[ConnectionReport]
    probes: list[Probe]
    mistakes: list[Mistake]
    """The first few."""
    touches: list[tuple[float, float]] = []
    """Of each exchange that touched the filling: when it was asked, and how long it took."""


Event = Ready | Tick | Failed | Report
DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class Window(msgspec.Struct, frozen=True):
    """When the move was, on the same clock. `stopped` to `resumed` is the freeze."""

    began: float
    stopped: float
    resumed: float
    ended: float


AFTERMATH_SECONDS = 2.0
"""A silence this soon after the move is put to its account: a lost packet's retransmission waits up to a second."""


def percentile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile: the smallest value that `fraction` of them do not exceed. Raises on no values."""
    if not values:
        raise ValueError("no percentile of nothing")
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def spread(values: Sequence[float]) -> Spread | None:
    """Median, 99th percentile and maximum; None of nothing."""
    if not values:
        return None
    return Spread(p50=percentile(values, 0.5), p99=percentile(values, 0.99), max=max(values))


def longest(silences: Iterable[Silent]) -> float:
    return max((silent.seconds for silent in silences), default=0.0)


def stalls(report: Report, window: Window) -> list[float]:
    """Each connection's longest silence that overlaps the move or its aftermath, in seconds."""
    until = window.ended + AFTERMATH_SECONDS
    return [longest(s for s in c.silences if s.overlaps(window.began, until)) for c in report.connections]


def steady_stalls(report: Report, window: Window | None) -> list[float]:
    """Each connection's longest silence away from the move; with no move, of all the run."""
    if window is None:
        return [longest(c.silences) for c in report.connections]
    until = window.ended + AFTERMATH_SECONDS
    return [longest(s for s in c.silences if not s.overlaps(window.began, until)) for c in report.connections]


def probes_in_freeze(report: Report, window: Window) -> list[Probe]:
    """The new connections that were begun while the workload was frozen."""
    return [probe for probe in report.probes if window.stopped <= probe.began <= window.resumed]
