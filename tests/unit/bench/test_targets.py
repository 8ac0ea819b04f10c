"""What is claimed must follow from the figures, whatever they are."""

from __future__ import annotations

import pytest

from tests.bench import targets
from tests.bench.figures import Failure, Losses, Quiet, Spread, Steady
from tests.harness.measured import alone, everything, figures, moved, one_round, row


def test_nothing_measured_nothing_claimed():
    assert targets.rows(figures()) == []


def test_every_claim_of_a_good_run_is_met():
    found = {row.what: row.met for row in targets.rows(everything())}
    assert False not in found.values()
    assert sum(met is True for met in found.values()) == 13


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (Losses(connections=1), "lost, as the clients saw it"),
        (Losses(newcomers=1), "lost, as the clients saw it"),
        (Losses(missing=1), "lost, as the clients saw it"),
        (Losses(bytes=1), "lost, as the clients saw it"),
        (Losses(wrong=1), "replies wrong"),
        (Losses(resets=1), "resets"),
        (Losses(ledger_flows=1), "lost, by the ledger"),
    ],
)
def test_any_loss_is_a_claim_not_met(loss, what):
    found = figures(moves=[moved(losses=loss), moved()])
    assert [row.what for row in targets.rows(found) if row.met is False] == [what]
    assert row(found, what).verdict == "**not met**"


def test_a_run_that_failed_is_a_claim_not_met():
    assert row(figures(moves=[moved()], failures=[Failure("demo", "no")]), "runs that failed").met is False


@pytest.mark.parametrize(
    ("stalls", "median_met", "longest_met"),
    [((0.12, 0.25), True, True), ((0.121, 0.25), False, True), ((0.1, 0.251), True, False)],
)
def test_the_limits_of_the_stall(stalls, median_met, longest_met):
    found = figures(moves=[moved(stalls=stalls)], quiets=[Quiet(64, [0.003, 0.004], [])])
    assert row(found, "stall, p50").met is median_met
    assert row(found, "stall, longest").met is longest_met
    assert row(found, "stall, p50").floor == "3 ms with no move"
    assert row(found, "stall, longest").floor == "4 ms with no move"


def test_stalls_are_pooled_over_the_runs():
    found = figures(moves=[moved(stalls=(0.01, 0.02)), moved(stalls=(0.2, 0.21, 0.22))])
    assert row(found, "stall, p50").measured == "200 ms"
    assert row(found, "stall, p50").met is False
    assert row(found, "stall, p50").floor == ""


@pytest.mark.parametrize(("seconds", "met"), [(0.005, True), (0.006, False)])
def test_the_limit_of_connect(seconds, met):
    found = figures(moves=[moved(connects=[0.001, seconds])], quiets=[Quiet(64, [], [0.001])])
    assert row(found, "connect() during the freeze, p99").met is met
    assert "connect() during the freeze, p99" not in {r.what for r in targets.rows(figures(moves=[moved(connects=[])]))}


@pytest.mark.parametrize(("freeze", "met", "ratio"), [(0.075, True, "1.50"), (0.08, False, "1.60")])
def test_the_ratio_to_criu_is_that_of_the_medians_of_the_runs_in_turn(freeze, met, ratio):
    moves = [moved("demo", freeze=9.0), *(moved("freeze", freeze=each) for each in (0.01, freeze, 9.0))]
    found = row(figures(moves=moves, bares=[alone()]), "freeze / CRIU alone, 64 connections")
    assert (found.measured, found.met) == (ratio, met)
    assert found.floor == "50 ms; its own work 23 ms"


@pytest.mark.parametrize(("freeze", "met"), [(0.16, True), (0.161, False)])
def test_the_freeze_of_a_thousand(freeze, met):
    moves = [moved("scale", 1000, freeze=freeze), moved("scale", 1, freeze=9.0)]
    found = row(figures(moves=moves, bares=[alone(1000)]), "freeze, 1,000 connections")
    assert found.met is met
    assert found.floor == "50 ms, CRIU alone"
    assert row(figures(moves=moves, bares=[alone(1000)]), "freeze / CRIU alone, 1,000 connections").met is None


def test_sidecars_that_cost_something_are_not_within_the_noise():
    slow = Steady([one_round(80, 100, 101), one_round(81, 100, 99), one_round(79, 100, 100)], 0.0)
    found = row(figures(steady=slow), "throughput with sidecars / without, GET")
    assert found.met is False
    assert found.measured == "0.800 (0.790 to 0.810)"


def test_with_too_much_noise_nothing_is_claimed_but_a_difference_is_seen():
    loud = [one_round(100, 100, 130), one_round(100, 100, 80), one_round(100, 100, 100)]
    found = row(figures(steady=Steady(loud, 0.0)), "throughput with sidecars / without, GET")
    assert (found.met, found.verdict) == (None, "")
    assert found.floor.endswith("too much to tell")
    halved = [one_round(30, 100, 130), one_round(30, 100, 80), one_round(30, 100, 100)]
    assert row(figures(steady=Steady(halved, 0.0)), "throughput with sidecars / without, GET").met is False


@pytest.mark.parametrize(("stall", "met"), [(0.15, True), (0.16, False)])
def test_the_limit_of_a_rollback(stall, met):
    found = figures(moves=[moved("rollback", place="Restoring", stalls=(stall,))])
    assert row(found, "rollback: stall, longest").met is met
    assert row(found, "rollback: lost").met is True


def test_a_refused_move_that_went_through_is_no_rollback():
    found = figures(moves=[moved("rollback", place="Restoring", outcome="succeeded")])
    assert row(found, "rollback: lost").met is False


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1184, "118 ms"), (0.0423, "42.3 ms"), (0.00012, "0.12 ms"), (1.5, "1500 ms"), (0.0, "0 ms")],
)
def test_milliseconds_have_three_digits(seconds, text):
    assert targets.ms(seconds) == text


def test_a_single_value_has_no_spread():
    assert targets.ms_spread(Spread.of([0.01])) == "10 ms"
    assert targets.ms_spread(Spread.of([0.01, 0.03])) == "20 ms (10 ms to 30 ms)"
    assert targets.ms_spread(None) == "-"
