"""The bench's arithmetic and its report: what is claimed must follow from the figures, whatever they are."""

from __future__ import annotations

import argparse

import msgspec
import pytest

from tests.bench import lanes, steps, targets
from tests.bench.__main__ import options
from tests.bench.figures import (
    FULL,
    PLAIN,
    QUICK,
    SECTIONS,
    TWIN,
    WITH_SIDECARS,
    Bare,
    Failure,
    Figures,
    Losses,
    Machine,
    Moved,
    Quiet,
    Round,
    Spread,
    Steady,
    compare,
    median,
    percentile,
)
from tests.bench.image_figures import Carried, Damage, Pair, Store, Transfer
from tests.bench.lane_figures import DIRECT, MIDSTREAM, MIDSTREAM_TLS, RIVAL, RIVAL_TLS, Idle, Lane, Relay
from tests.bench.machine import Usage
from tests.bench.memory_figures import Memory, MemoryMove, claims
from tests.bench.report import plain, render
from tests.bench.sections import REFUSALS, _attempts
from tests.bench.sections import SECTIONS as MEASURES
from tests.bench.steady import parse_csv

MACHINE = Machine(
    kernel="6.1",
    cores=2,
    processor="A | B",
    memory_bytes=4 << 30,
    criu="4.2.1",
    python="3.11.2",
    revision="abc1234",
    measured="2025-01-01 00:00 UTC",
    load_before=(0.5, 0.25, 0.0),
    stolen=0.015,
    wakeups=[0.0001, 0.0002],
)


def moved(section="demo", connections=64, *, freeze=0.1, stalls=(0.1, 0.2), place="", **more) -> Moved:
    values = {
        "outcome": "rolled-back" if place else "succeeded",
        "hold_seconds": freeze + 0.01,
        "flows": connections,
        "phases": {"Stopping": 0.004, "Checkpointing": freeze / 2},
        "agents": {"criu": 0.02, "dump": freeze / 2},
        "calls": {"REPOINT": 0.001},
        "criu_dump": {"freezing": 0.001, "frozen": 0.02},
        "connects": [0.001, 0.002],
        "replies": 1000,
        "newcomers": 10,
    } | more
    return Moved(
        section=section, connections=connections, freeze_seconds=freeze, stalls=list(stalls), place=place, **values
    )


def alone(connections=64, section="freeze", dump=0.03, restore=0.02) -> Bare:
    return Bare(section, connections, dump, restore, {"freezing": 0.001, "frozen": 0.01}, {"restore": 0.012})


def one_round(sidecars: float, plain_rate: float, twin: float) -> Round:
    return Round({WITH_SIDECARS: {"GET": sidecars}, PLAIN: {"GET": plain_rate}, TWIN: {"GET": twin}})


def figures(**more) -> Figures:
    return Figures(plan=FULL, sections=list(SECTIONS), machine=MACHINE, **more)


def everything() -> Figures:
    return figures(
        moves=[
            moved(),
            moved(freeze=0.12),
            moved("freeze", freeze=0.06),
            moved("scale", 1, freeze=0.05),
            moved("scale", 1000, freeze=0.15),
            moved("rollback", place="Restoring", freeze=0.08, stalls=(0.09,)),
            moved("rollback", place="Preflight", freeze=0.0, stalls=(0.001,)),
        ],
        bares=[alone(), alone(1, "scale"), alone(1000, "scale", 0.1, 0.08)],
        quiets=[Quiet(64, [0.002, 0.004], [0.0005]), Quiet(1000, [0.01], [])],
        starts=[0.01],
        steady=Steady([one_round(99, 100, 101), one_round(101, 100, 98), one_round(100, 100, 100)], 0.0004),
    )


def row(found: Figures, what: str) -> targets.Row:
    (one,) = [row for row in targets.rows(found) if row.what == what]
    return one


# --- figures ------------------------------------------------------------------------------------------------------


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


# --- comparison ---------------------------------------------------------------------------------------------------


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


# --- targets ------------------------------------------------------------------------------------------------------


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


# --- steps --------------------------------------------------------------------------------------------------------


def test_the_steps_of_the_freeze_and_what_a_connection_adds():
    found = everything()
    numbers = steps.measured(found)
    assert numbers == [1, 64, 1000]
    lines = {line.name: line for line in steps.table(found, numbers)}
    freeze = lines["**freeze**, stop to resume"]
    assert freeze.seconds == [0.05, 0.1, 0.15]
    assert freeze.each == pytest.approx(0.1 / 999)
    assert lines["Stopping"].each == 0.0
    assert lines["CRIU's own account of it"].seconds[0] == pytest.approx(0.021)
    assert lines["Adopting"].seconds == [None, None, None]
    assert lines["Adopting"].each is None


def test_with_one_number_of_connections_there_is_no_slope():
    found = figures(moves=[moved()])
    assert steps.table(found, [64])[0].each is None
    assert steps.flows(found, 64) == 64
    assert steps.flows(found, 1) is None
    same = figures(moves=[moved(), moved("scale", 1000, flows=64)])
    assert steps.table(same, [64, 1000])[0].each is None


# --- report -------------------------------------------------------------------------------------------------------


def test_the_report_has_every_section_and_sound_tables():
    text = render(everything())
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## The machine",
        "## The claims",
        "## The demo, phase by phase",
        "## The freeze and CRIU alone",
        "## Where the freeze goes",
        "## Sidecars at rest",
        "## Taken back",
        "## How it is measured",
    ]
    for table in tables(text):
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table
    assert "What went wrong" not in text
    assert "| Preflight | 1 | 1 ms | no | 0 | 0 |" in text
    assert "| 64 | 60 ms | 41 ms | 50 ms | 30 ms | 20 ms | 23 ms | 1.20 |" in text


def tables(text: str) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_a_part_of_the_bench_has_only_its_part_of_the_report():
    text = render(Figures(plan=QUICK, sections=["demo"], machine=msgspec.structs.replace(MACHINE, wakeups=[])))
    assert "This is a quick run" in text
    assert "## Where the freeze goes" not in text
    assert "## Sidecars at rest" not in text
    assert "## The claims" in text


def test_half_a_pair_is_left_out():
    text = render(figures(bares=[alone()]))
    assert "## The freeze and CRIU alone" not in text


def test_the_report_says_what_went_wrong():
    text = render(figures(moves=[moved(losses=Losses(resets=1), reasons=["1 connections reset"])]))
    assert "- demo, 64 connections: 1 connections reset" in text
    assert "| resets | 1 | 0 | **not met** |" in text


def test_a_busy_machine_is_told_of():
    quiet = msgspec.structs.replace(MACHINE, others={"demo": 0.02, "freeze": 0.1})
    assert "busy" not in render(Figures(plan=FULL, sections=["demo"], machine=quiet))
    busy = msgspec.structs.replace(MACHINE, others={"demo": 0.02, "freeze": 0.3})
    text = render(Figures(plan=FULL, sections=["demo"], machine=busy))
    assert "**The machine was busy with something else during freeze: those times are too high.**" in text
    assert "| used by other processes meanwhile | demo 2%, freeze 30% |" in text


def test_what_others_used_is_what_was_used_and_not_by_us():
    before, later = Usage(100.0, 50.0, 1.0, 10.0), Usage(120.0, 60.0, 1.5, 16.0)
    assert before.others_until(later) == pytest.approx(0.2)
    assert before.stolen_until(later) == pytest.approx(0.025)
    assert before.others_until(before) == 0.0
    now = Usage.now()
    assert now.total > now.busy > now.own > 0


def test_the_claims_fit_a_terminal():
    text = plain(everything())
    assert "**" not in text
    assert len(text.splitlines()) == len(targets.rows(everything()))
    assert plain(figures()) == ""


def test_the_same_figures_give_the_same_text():
    assert render(everything()) == render(everything())


# --- runs ---------------------------------------------------------------------------------------------------------


async def attempts(outcomes: list[bool]) -> tuple[list[str], Figures, list[str]]:
    """What was begun, what was written down and what was said, when runs succeed or fail in this order."""
    begun, said, found, left = [], [], figures(), iter(outcomes)

    async def once(label: str) -> None:
        begun.append(label)
        if not next(left):
            raise OSError("no")

    await _attempts(found, "demo", said.append, len(outcomes), once)
    return begun, found, said


async def test_a_run_that_fails_does_not_hide_the_others():
    begun, found, said = await attempts([True, False, True])
    assert begun == ["demo 1/3", "demo 2/3", "demo 3/3"]
    assert found.failures == [Failure("demo", "OSError: no")]
    assert said == ["demo 2/3: failed: OSError: no"]


async def test_a_section_where_nothing_works_is_given_up():
    begun, found, said = await attempts([True, False, False, True, False, False, False, True])
    assert len(begun) == 7
    assert len(found.failures) == 5
    assert said[-1] == "demo: given up after 3 failures in a row"


# --- command line and parts ---------------------------------------------------------------------------------------


def test_the_sections_are_the_ones_that_can_be_asked_for():
    assert tuple(MEASURES) == SECTIONS
    assert len(REFUSALS) == 5


def test_only_some_sections_in_the_usual_order():
    assert options(["--only", "freeze,demo"]).only == ["demo", "freeze"]
    assert options([]).only == list(SECTIONS)
    assert not options([]).quick


def test_an_unknown_section_is_refused(capsys):
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        options(["--only", "demo,lunch"])
    assert "no such section: lunch" in capsys.readouterr().err


def test_redis_benchmarks_table_is_read():
    text = '"test","rps","avg_latency_ms"\n"SET","61000.50","0.4"\n"GET","64000.00","0.4"\n'
    assert parse_csv(text) == {"SET": 61000.5, "GET": 64000.0}


# --- relayed ------------------------------------------------------------------------------------------------------


def lane(p99=80e-6, requests=40_000.0, bits=10e9) -> Lane:
    return Lane(p50=p99 / 2, p99=p99, requests=requests, bits=bits, request_cpu=20e-6, gib_cpu=0.5)


def relayed(*ours: Lane) -> Figures:
    straight = Lane(1e-5, 2e-5, 1e5, 4e10, 0.0, 0.0)
    tls = {RIVAL_TLS: lane(bits=4e9), MIDSTREAM_TLS: lane(bits=6e9)}
    rounds = [{DIRECT: straight, RIVAL: lane(), MIDSTREAM: one, **tls} for one in ours]
    idle = [Idle(MIDSTREAM, 1000, [30_000_000, 30_000_000], [34_000_000, 33_000_000])]
    return figures(relay=Relay(rounds, idle))


def test_the_relay_is_judged_by_its_median_share_of_haproxys():
    found = relayed(lane(p99=88e-6, requests=44_000, bits=5e9), lane(), lane(p99=96e-6, requests=48_000, bits=20e9))
    p99 = row(found, "relayed, cleartext links: round trip of 64 bytes, p99")
    assert (p99.measured, p99.met) == ("1.10 (1.00 to 1.20) of HAProxy's", False)
    assert p99.floor == "20.0 us direct, 80.0 us HAProxy"
    assert row(found, "relayed, cleartext links: requests/s, 64 connections").met is True
    assert row(found, "relayed, cleartext links: bulk").met is False


def test_with_tls_it_is_compared_with_a_haproxy_that_has_tls():
    bulk = row(relayed(lane()), "relayed: bulk")
    assert (bulk.measured, bulk.met) == ("1.50 (1.50 to 1.50) of HAProxy's", True)
    assert bulk.floor == "40.0 Gbit/s direct, 4.0 Gbit/s HAProxy, TLS"


def test_what_took_no_time_has_no_share():
    assert lanes.ratio(relayed(lane()).relay, lambda one: one.request_cpu, MIDSTREAM, DIRECT) is None


def test_the_report_has_every_lane_and_what_an_idle_connection_costs():
    text = render(relayed(lane()))
    heads = "| medians | direct | HAProxy | Midstream | HAProxy, TLS | Midstream, TLS |"
    assert f"{heads} Midstream / HAProxy | Midstream, TLS / HAProxy, TLS |" in text
    bulk = "| bulk | 40.0 Gbit/s | 10.0 Gbit/s | 10.0 Gbit/s | 4.0 Gbit/s | 6.0 Gbit/s |"
    assert f"{bulk} 1.00 (1.00 to 1.00) | 1.50 (1.50 to 1.50) |" in text
    assert "| 1,000 | Midstream | 30.0 MB + 30.0 MB | 34.0 MB + 33.0 MB | 7,000 bytes |" in text


def test_without_a_relay_nothing_is_said_of_it():
    assert "Relayed after the move" not in render(figures(relay=Relay([], [])))


def test_much_memory_is_claimed_beside_criu_alone_and_what_was_lost_makes_the_bench_fail():
    late = MemoryMove(
        way="post-copy", memory_bytes=4 << 30, freeze_seconds=0.3, stall_seconds=0.3, total_seconds=30.0, p99=0.04,
        reasons=["3 replies never came"],
    )  # fmt: skip
    copied = MemoryMove(
        way="stop-and-copy", memory_bytes=1 << 30, freeze_seconds=2.2, stall_seconds=2.3, total_seconds=3.0,
        alone_seconds=2.0,
    )  # fmt: skip
    found = Memory([late, copied])
    assert [(row.what, row.met) for row in claims(found)] == [
        ("freeze, 4 GiB by post-copy", False),
        ("stall, 4 GiB by post-copy", True),
        ("freeze / CRIU alone, 1 GiB by stop-and-copy", True),
    ]
    assert claims(None) == []
    assert not claims(Memory([msgspec.structs.replace(copied, alone_seconds=None)]))
    figures = Figures(plan=QUICK, sections=["memory"], machine=MACHINE, memory=found)
    assert figures.bad == ["4 GiB by post-copy: 3 replies never came"]
    assert "| 4 GiB by post-copy | 300 ms | 300 ms | 30.0 s | 40 ms | - | 3 replies never came |" in render(figures)


def test_images_are_claimed_beside_their_floors_and_unnoticed_damage_makes_the_bench_fail():
    pairs = [Pair(Carried(rate, 1 << 20, grown), Carried(1e9)) for rate, grown in ((0.8e9, 0), (0.6e9, 200 << 20))]
    store = Store(1 << 20, "a server", 1e8, 2e8, 3e8, 4e8, 5e8, [Damage("one", 10, 10), Damage("other", 10, 9)])
    figures = Figures(
        plan=QUICK, sections=["transfer", "store"], machine=MACHINE, transfer=Transfer(1 << 30, pairs), store=store
    )
    assert [(row.what, row.measured, row.met) for row in targets.rows(figures)] == [
        ("direct transfer / TLS socket", "0.80", True),
        ("an agent's memory meanwhile", "+200 MiB", False),
        ("through the store, written", "100 MB/s", None),
        ("through the store, read", "200 MB/s", None),
        ("a damaged byte in one", "10 of 10", True),
        ("a damaged byte in other", "9 of 10", False),
    ]
    assert figures.bad == ["store: 1 damaged bytes unnoticed in other"]
    assert "300 MB/s, the same library alone; 500 MB/s, the server's own client" in render(figures)
    assert targets.rows(Figures(plan=QUICK, sections=[], machine=MACHINE, transfer=Transfer(1, []))) == []
