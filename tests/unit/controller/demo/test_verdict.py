"""The verdict is good only if neither witness saw a loss, and if there was something to see."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.core.result import ByteCounts, FlowCounts, LedgerRow, MigrationResult, Problem
from controller.demo.report import ConnectionReport, Probe, Report, Silent, Window
from controller.demo.result import Connections, NewConnections, Spread
from controller.demo.verdict import KEPT_EVERYTHING, LOST_SOMETHING, NOT_MOVED, Verdict, judge

WINDOW = Window(10.0, 10.1, 10.2, 10.3)
GOOD = ConnectionReport(
    "counter0", "counter", replies=100, last_heard=20.0, silences=[Silent(10.1, 10.25), Silent(5.0, 5.004)]
)
SERVED = Probe(10.15, 10.16, 10.25)
MOVED = MigrationResult(
    migration="redis-1",
    outcome="succeeded",
    flows=FlowCounts(1, 1, 0),
    bytes=ByteCounts(50, 0),
    ledger=[LedgerRow("10.0.0.4:5", "inbound", 0, 50, 50, 50, True)],
)


def report(*connections: ConnectionReport, probes: list[Probe] | None = None, ended: float = 20.0) -> Report:
    return Report("10.0.0.1", 6379, 0.0, ended, 1.0, list(connections), [SERVED] if probes is None else probes, [])


def verdict(migration: MigrationResult = MOVED, **changes: Any) -> Verdict:
    return judge(report(msgspec.structs.replace(GOOD, **changes)), migration, WINDOW)


def test_nothing_lost() -> None:
    found = verdict()
    assert found == Verdict(KEPT_EVERYTHING, [], found.result, lost=False)
    assert found.result.connections == Connections(1, 1, 0)
    assert found.result.new_connections == NewConnections(1, 1, 0)
    assert found.result.stall_seconds is not None
    assert found.result.stall_seconds.max == pytest.approx(0.15)
    assert found.result.steady_stall_seconds is not None
    assert found.result.steady_stall_seconds.max == pytest.approx(0.004)
    assert found.result.connect_during_freeze_seconds == Spread(*[pytest.approx(0.01)] * 3)
    assert found.result.served_during_freeze_seconds == Spread(*[pytest.approx(0.1)] * 3)
    assert found.result.ledger == MOVED.ledger


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": "closed"}, "1 connections lost"),
        ({"loss": "reset"}, "1 connections reset"),
        ({"wrong": 1234}, "1,234 replies wrong"),
        ({"missing": 2}, "2 replies that never came"),
        ({"bytes_lost": 7}, "7 bytes that never came, or came altered"),
    ],
)
def test_what_the_clients_lost(changes: dict[str, Any], reason: str) -> None:
    found = verdict(**changes)
    assert found.exit_status == LOST_SOMETHING
    assert found.lost
    assert reason in found.reasons


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flows": FlowCounts(1, 0, 1)}, "1 flows lost, by the proxies' count"),
        ({"bytes": ByteCounts(0, 9)}, "9 bytes lost, by the proxies' ledger"),
        ({"ledger": [LedgerRow("10.0.0.4:5", "inbound", 0, 5, 4, 5, False)]}, "1 flows whose ledger does not balance"),
    ],
)
def test_what_the_proxies_lost(changes: dict[str, Any], reason: str) -> None:
    found = verdict(msgspec.structs.replace(MOVED, **changes))
    assert (found.exit_status, found.reasons, found.lost) == (LOST_SOMETHING, [reason], True)


def test_a_newcomer_turned_away_is_a_loss() -> None:
    probes = [Probe(at, None, None, how) for at, how in ((10.1, "refused"), (10.15, "timeout"), (10.2, "timeout"))]
    found = judge(report(GOOD, probes=probes), MOVED, WINDOW)
    assert found.reasons == ["3 new connections not served (2 timeout, 1 refused)"]
    assert found.result.new_connections == NewConnections(3, 3, 3, {"timeout": 2, "refused": 1})
    assert found.result.connect_during_freeze_seconds is None


def test_a_newcomer_reset_is_a_reset() -> None:
    assert judge(report(GOOD, probes=[Probe(10.15, 10.16, None, "reset")]), MOVED, WINDOW).result.resets == 1


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (report(), "no connections"),
        (report(GOOD, ended=10.2), "ended before"),
        (report(msgspec.structs.replace(GOOD, last_heard=10.15)), "1 connections heard nothing after the move"),
    ],
)
def test_what_proves_nothing_is_not_good(seen: Report, reason: str) -> None:
    found = judge(seen, MOVED, WINDOW)
    assert (found.exit_status, found.lost) == (LOST_SOMETHING, False)
    assert reason in found.reasons[0]


def test_a_rollback_that_lost_nothing_is_no_success() -> None:
    problem = Problem("restore-failed", "it did not work", "pod")
    found = verdict(msgspec.structs.replace(MOVED, outcome="rolled-back", error=problem))
    assert (found.exit_status, found.lost) == (NOT_MOVED, False)
    assert found.result.error == problem


def test_without_a_stop_there_is_no_stall() -> None:
    found = judge(report(GOOD), MOVED, None)
    assert found.exit_status == KEPT_EVERYTHING
    assert found.result.stall_seconds is None
    assert found.result.served_during_freeze_seconds is None
