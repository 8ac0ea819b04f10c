"""Sums, spreads and medians of what was measured."""

from __future__ import annotations

import msgspec
import pytest

from tests.bench.figures import Failure, Figures, Losses, Spread, compare, median, percentile
from tests.harness.measured import alone, everything, figures, moved, one_round


def test_a_spread_is_the_median_and_the_ends():
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3, 3.0, 1.0, 10.0)
    assert Spread.of([]) is None


def test_percentiles_are_values_that_were_measured():
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    assert percentile([5.0], 0.0) == 5.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_the_median_of_nothing_is_none():
    assert median([]) is None
    assert median(iter([1.0, 3.0])) == 2.0


def test_losses_add_up():
    both = Losses(connections=1, bytes=2) + Losses(connections=1, ledger_flows=3)
    assert both == Losses(connections=2, bytes=2, ledger_flows=3)
    assert both.seen
    assert not both.none
    assert not Losses(ledger_flows=1).seen
    assert Losses().none


def test_criu_alone_is_both_commands_and_its_own_work_without_their_starts():
    one = alone()
    assert one.seconds == pytest.approx(0.05)
    assert one.work_seconds == pytest.approx(0.023)


def test_crius_part_of_a_move_is_known_or_not():
    assert moved().criu_seconds == pytest.approx(0.041)
    assert moved(agents={}).criu_seconds is None
    assert moved(criu_dump={}).criu_seconds is None


def test_moves_that_were_made_to_fail_are_no_moves():
    found = everything()
    assert len(found.moved("demo", "rollback")) == 2
    assert len(found.moved("scale", connections=1000)) == 1
    assert figures(moves=[moved(outcome="rolled-back")]).moved("demo") == []


def test_what_is_bad_names_the_run():
    found = figures(
        moves=[moved(reasons=["1 connections lost"]), moved("rollback", place="Restoring", reasons=["succeeded"])],
        failures=[Failure("scale", "OSError: no")],
    )
    assert found.bad == [
        "demo, 64 connections: 1 connections lost",
        "rollback, Restoring: succeeded",
        "scale: OSError: no",
    ]
    assert not everything().bad


def test_figures_survive_the_file_they_are_kept_in():
    found = everything()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Figures) == found


def test_equal_pods_are_equal_within_the_noise_and_different_ones_are_not():
    same = compare([one_round(100, 100, 101), one_round(101, 100, 99), one_round(99, 100, 100)], "GET")
    assert same is not None
    assert same.ratio.median == 1.0
    assert same.noise == pytest.approx(2 * 1.25 * 0.01 / 3**0.5)
    assert same.within_noise
    slower = compare([one_round(80, 100, 101), one_round(81, 100, 99), one_round(79, 100, 100)], "GET")
    assert slower is not None
    assert not slower.within_noise


def test_what_two_equal_pods_differ_by_is_noise():
    biased = compare([one_round(100, 100, 110), one_round(100, 100, 110)], "GET")
    assert biased is not None
    assert biased.noise == pytest.approx(0.1)


def test_a_single_round_says_nothing():
    one = compare([one_round(50, 100, 100)], "GET")
    assert one is not None
    assert one.within_noise
    assert compare([], "GET") is None
