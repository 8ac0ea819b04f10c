"""What `midstream demo` prints with `--json`: the migration's account, and what the clients saw of it.

Times are seconds, sizes are bytes. `schema()` gives the same as a JSON schema.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from controller.core.result import Count, MigrationResult, Seconds


class Spread(msgspec.Struct, frozen=True):
    """How a measurement spreads over connections: nearest-rank percentiles, in seconds."""

    p50: Annotated[Seconds, Meta(description="Half of the connections saw this or less.")]
    p99: Annotated[Seconds, Meta(description="99 of 100 connections saw this or less.")]
    max: Annotated[Seconds, Meta(description="No connection saw more.")]


class Connections(msgspec.Struct, frozen=True):
    """The load's own connections: counters, publisher, subscribers and bulk; not the probes."""

    opened: Annotated[Count, Meta(description="Open when the load was ready, before the move.")]
    kept: Annotated[Count, Meta(description="Still open, and answering their last check, at the end.")]
    lost: Annotated[Count, Meta(description="Reset, closed, timed out, or silent at the end.")]


class NewConnections(msgspec.Struct, frozen=True):
    """Connections opened while the load ran, one every few milliseconds, to the address that the workload left."""

    opened: Annotated[Count, Meta(description="Attempts over the whole run.")]
    during_freeze: Annotated[Count, Meta(description="Attempts that began while the workload was frozen.")]
    failed: Annotated[Count, Meta(description="Attempts, at any time, that were refused, reset, or never served.")]
    failures: Annotated[
        dict[str, Count],
        Meta(description="How many of them failed how: refused, reset, closed, timeout, unreachable, corrupt."),
    ] = {}


class DemoResult(MigrationResult, frozen=True, kw_only=True):
    """One run of the demo, when it is over."""

    connections: Connections
    new_connections: NewConnections
    replies_checked: Annotated[Count, Meta(description="Replies and messages compared, byte for byte.")]
    replies_wrong: Annotated[Count, Meta(description="Replies that were not what they had to be.")]
    replies_missing: Annotated[Count, Meta(description="Replies and messages that never came.")]
    resets: Annotated[Count, Meta(description="Connections, probes included, that ended in a reset.")]
    client_bytes_lost: Annotated[Count, Meta(description="Bytes owed to the clients that never came, or came altered.")]
    stall_seconds: Annotated[
        Spread | None,
        Meta(description="Each connection's longest silence while a reply was due, around the move; null: no move."),
    ]
    steady_stall_seconds: Annotated[
        Spread | None, Meta(description="The same measure away from the move: the floor of machine and load.")
    ]
    connect_during_freeze_seconds: Annotated[
        Spread | None, Meta(description="How long connect() took, begun during the freeze; null when none was.")
    ]
    served_during_freeze_seconds: Annotated[
        Spread | None, Meta(description="Until the first reply on such a connection; null when none was begun.")
    ]
    latency_while_memory_comes_seconds: Annotated[
        Spread | None,
        Meta(description="Of requests for filled memory between the freeze and the last page; null: none came."),
    ] = None
    latency_otherwise_seconds: Annotated[
        Spread | None, Meta(description="Of the same requests away from the move; null without --memory-size.")
    ] = None


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of `DemoResult`."""
    return msgspec.json.schema(DemoResult)
