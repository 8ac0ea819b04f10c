"""What `make soak` says of each move and in the end, and that it hears of every loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from controller.core.result import ByteCounts, FlowCounts, LedgerRow, MigrationResult, Problem
from controller.demo.report import ConnectionReport, Mistake, Probe, Report
from tests.soak import Losses, line

WHOLE = LedgerRow("10.0.0.1:5000", "inbound", 0, 0, 0, 0, offsets_equal=True)
MOVED = MigrationResult(
    migration="m", outcome="succeeded", freeze_seconds=0.0821, flows=FlowCounts(adopted=9), ledger=[WHOLE]
)
SEEN = Report("10.0.0.2", 6379, 0, 9, 1, [ConnectionReport("counter1", "counter", 4200)], [Probe(1, 2, 3)], [])


def test_each_move_is_a_line() -> None:
    assert line(MOVED, 1.23) == "succeeded, frozen 82 ms, 1.2 s in all, 9 flows, 0 flows and 0 bytes lost"


def test_the_last_line_says_that_nothing_was_lost() -> None:
    losses = Losses()
    losses.add(MOVED)
    losses.hear(SEEN)
    assert not losses.any
    assert str(losses) == "1 moves, 4,200 replies and every byte of the streams compared: 0 lost"


def added(**changes: object) -> Callable[[Losses], None]:
    return lambda losses: losses.add(replace(MOVED, **changes))


def heard(**changes: object) -> Callable[[Losses], None]:
    return lambda losses: losses.hear(replace(SEEN, **changes))


@pytest.mark.parametrize(
    ("happen", "words"),
    [
        (added(flows=FlowCounts(adopted=9, lost=2)), "2 flows, 0 bytes and 0 replies lost, 0 troubles"),
        (added(bytes=ByteCounts(lost=3)), "0 flows, 3 bytes and 0 replies lost, 0 troubles"),
        (added(outcome="rolled-back"), "0 flows, 0 bytes and 0 replies lost, 1 troubles"),
        (added(error=Problem("late", "it came late", "machine")), "0 flows, 0 bytes and 0 replies lost, 1 troubles"),
        (added(ledger=[WHOLE, replace(WHOLE, offsets_equal=False)]), "0 flows, 0 bytes and 0 replies lost, 1 troubles"),
        (heard(connections=[ConnectionReport("c", "counter", wrong=1, missing=2)]), "0 bytes and 3 replies lost"),
        (heard(connections=[ConnectionReport("c", "bulk", bytes_lost=7)]), "0 flows, 7 bytes and 0 replies lost"),
        (heard(connections=[ConnectionReport("c", "counter", loss="reset")]), "1 flows, 0 bytes and 0 replies lost, 1"),
        (heard(probes=[Probe(1, None, None, "refused")]), "1 flows, 0 bytes and 0 replies lost, 1 troubles"),
        (heard(mistakes=[Mistake("c", "1", "2")]), "0 flows, 0 bytes and 0 replies lost, 1 troubles"),
    ],
)
def test_the_last_line_says_what_was_lost(happen: Callable[[Losses], None], words: str) -> None:
    losses = Losses()
    happen(losses)
    assert losses.any
    assert words in str(losses)
