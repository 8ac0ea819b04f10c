"""Was anything lost? From the load's report and the migration's account to a verdict. Pure.

Two witnesses are heard: the clients (the load's report) and the proxies (the ledger). The verdict is good only if
neither saw a loss, and if there was something to see: a load that asked nothing after the move proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from controller.core.result import MigrationResult
from controller.demo.report import (
    ConnectionReport,
    Report,
    Window,
    probes_in_freeze,
    spread,
    stalls,
    steady_stalls,
)
from controller.demo.result import Connections, DemoResult, NewConnections, Spread

KEPT_EVERYTHING = 0
LOST_SOMETHING = 1
NOT_MOVED = 3  # 2 is what click exits with on a wrong option
"""Exit statuses of `midstream demo`."""


class Verdict(msgspec.Struct, frozen=True):
    exit_status: int
    reasons: list[str]
    """Why it is not 0, in a person's words; empty when it is."""
    result: DemoResult
    lost: bool = False
    """Whether something is known to be lost; not so when it merely was not proved that nothing was."""


def judge(report: Report, migration: MigrationResult, window: Window | None) -> Verdict:
    """Put both accounts together and decide. `window` is None when the workload was never stopped."""
    result = demo_result(report, migration, window)
    losses = _losses(result)
    if reasons := [*losses, *_unproven(report, window)]:
        return Verdict(LOST_SOMETHING, reasons, result, bool(losses))
    if migration.outcome != "succeeded":
        return Verdict(NOT_MOVED, [f"the migration was not completed ({migration.outcome})"], result)
    return Verdict(KEPT_EVERYTHING, [], result)


def demo_result(report: Report, migration: MigrationResult, window: Window | None) -> DemoResult:
    """The demo's result: the migration's fields, and what the clients saw."""
    endings = [*(c.loss for c in report.connections), *(p.loss for p in report.probes)]
    lost = sum(connection.loss is not None for connection in report.connections)
    probes = probes_in_freeze(report, window) if window else []
    failures = Counter(probe.loss for probe in report.probes if probe.loss is not None)
    connect, served = _latencies(report, window)
    return DemoResult(
        **{name: getattr(migration, name) for name in migration.__struct_fields__},
        connections=Connections(len(report.connections), len(report.connections) - lost, lost),
        new_connections=NewConnections(len(report.probes), len(probes), failures.total(), dict(failures.most_common())),
        replies_checked=_total(report.connections, "replies"),
        replies_wrong=_total(report.connections, "wrong"),
        replies_missing=_total(report.connections, "missing"),
        resets=endings.count("reset"),
        client_bytes_lost=_total(report.connections, "bytes_lost"),
        stall_seconds=spread(stalls(report, window)) if window else None,
        steady_stall_seconds=spread(steady_stalls(report, window)),
        latency_while_memory_comes_seconds=spread(_touches(report, migration, window)),
        latency_otherwise_seconds=spread([took for at, took in report.touches if window and at + took < window.began]),
        connect_during_freeze_seconds=connect,
        served_during_freeze_seconds=served,
    )


def _touches(report: Report, migration: MigrationResult, window: Window | None) -> list[float]:
    """How long requests took that were asked after the freeze and before the last page had come."""
    seen = migration.memory
    if window is None or seen is None or not seen.fetch_seconds:
        return []
    return [took for at, took in report.touches if window.resumed <= at <= window.resumed + seen.fetch_seconds]


def _total(connections: list[ConnectionReport], field: str) -> int:
    return sum(getattr(connection, field) for connection in connections)


def _latencies(report: Report, window: Window | None) -> tuple[Spread | None, Spread | None]:
    """How long connections begun during the freeze took to connect, and to be served."""
    probes = probes_in_freeze(report, window) if window else []
    connect = [probe.connected - probe.began for probe in probes if probe.connected is not None]
    served = [probe.served - probe.began for probe in probes if probe.served is not None]
    return spread(connect), spread(served)


def _losses(result: DemoResult) -> list[str]:
    """What either witness says was lost; empty when nothing was."""
    unequal = sum(not row.offsets_equal for row in result.ledger)
    counted = [
        (result.connections.lost, "connections lost"),
        (result.new_connections.failed, f"new connections not served ({_kinds(result.new_connections.failures)})"),
        (result.resets, "connections reset"),
        (result.replies_wrong, "replies wrong"),
        (result.replies_missing, "replies that never came"),
        (result.client_bytes_lost, "bytes that never came, or came altered"),
        (result.flows.lost, "flows lost, by the proxies' count"),
        (result.bytes.lost, "bytes lost, by the proxies' ledger"),
        (unequal, "flows whose ledger does not balance"),
    ]
    return [f"{count:,} {what}" for count, what in counted if count]


def _kinds(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {how}" for how, count in failures.items())


def _unproven(report: Report, window: Window | None) -> list[str]:
    """Why the report proves nothing, where it does not."""
    if not report.connections:
        return ["the load had no connections: nothing was proved"]
    if window is not None and report.ended <= window.resumed:
        return ["the load ended before the workload was resumed: nothing was proved"]
    silent = sum(window is not None and c.loss is None and c.last_heard < window.resumed for c in report.connections)
    return [f"{silent:,} connections heard nothing after the move"] if silent else []
