"""The background stands back where somebody waits for a page."""

from __future__ import annotations

from checkpoint.core.pacing import LITTLE, LULL_SECONDS, MUCH, NOTHING, STORM_SECONDS, Pace


def test_nothing_is_fetched_ahead_before_the_workload_runs():
    pace = Pace()
    assert (pace.begun, pace.ahead(100.0)) == (False, NOTHING)


def test_right_after_the_freeze_faults_go_first_and_a_lull_is_used():
    pace = Pace()
    pace.begin(0.0)
    pace.begin(99.0)
    assert pace.begun
    assert pace.ahead(0.0) == MUCH
    pace.fault(0.1)
    assert pace.ahead(0.1) == NOTHING
    assert pace.ahead(0.1 + 2 * LULL_SECONDS) == MUCH


def test_later_a_fault_makes_it_smaller():
    pace = Pace()
    pace.begin(0.0)
    pace.fault(STORM_SECONDS)
    assert pace.ahead(STORM_SECONDS) == LITTLE
