"""The background stands back where somebody waits for a page."""

from __future__ import annotations

from checkpoint.core.pacing import ALL, LITTLE, LULL_SECONDS, MUCH, NOTHING, STORM_SECONDS, Pace


def test_nothing_is_fetched_ahead_before_it_is_wanted():
    for runs in (True, False):
        pace = Pace(runs=runs)
        assert (pace.begun, pace.ahead(100.0)) == (False, NOTHING)


def test_right_after_the_freeze_there_are_only_faults():
    pace = Pace(runs=True)
    pace.begin(0.0)
    pace.begin(99.0)
    assert pace.begun
    assert pace.ahead(0.0) == NOTHING
    pace.fault(0.1)
    assert pace.ahead(STORM_SECONDS - LULL_SECONDS) == NOTHING
    assert pace.ahead(STORM_SECONDS) == MUCH


def test_later_a_fault_makes_it_smaller_and_a_lull_is_used():
    pace = Pace(runs=True)
    pace.begin(0.0)
    pace.fault(STORM_SECONDS)
    assert pace.ahead(STORM_SECONDS) == LITTLE
    assert pace.ahead(STORM_SECONDS + 2 * LULL_SECONDS) == MUCH


def test_where_the_workload_stands_still_it_comes_at_once():
    pace = Pace(runs=False)
    pace.begin(0.0)
    assert pace.ahead(0.0) == ALL
