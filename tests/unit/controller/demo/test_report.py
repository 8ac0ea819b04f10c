"""Percentiles, and which silences and probes belong to the move."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.demo.report import (
    AFTERMATH_SECONDS,
    DECODER,
    ConnectionReport,
    Event,
    Failed,
    Probe,
    Ready,
    Report,
    Silent,
    Tick,
    Window,
    longest,
    percentile,
    probes_in_freeze,
    spread,
    stalls,
    steady_stalls,
)
from controller.demo.result import Spread

WINDOW = Window(began=10.0, stopped=10.1, resumed=10.2, ended=10.3)


def report_of(*silences: Silent, probes: tuple[Probe, ...] = ()) -> Report:
    connection = ConnectionReport("counter0", "counter", silences=list(silences), last_heard=20.0)
    return Report("10.0.0.1", 6379, 0.0, 20.0, 1.0, [connection], list(probes), [])


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 1), (0.5, 5), (0.99, 10), (1.0, 10), (0.51, 6)])
def test_percentiles_are_nearest_rank(fraction: float, expected: int) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], fraction) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_the_fraction_does_not_exceed(values: list[float], fraction: float) -> None:
    found = percentile(values, fraction)
    assert found in values
    assert sum(value <= found for value in values) >= fraction * len(values) - 1e-6


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)
    assert spread([]) is None
    assert longest([]) == 0.0


def test_a_spread() -> None:
    assert spread([0.3, 0.1, 0.2]) == Spread(0.2, 0.3, 0.3)


@pytest.mark.parametrize(
    ("silent", "moved"),
    [
        (Silent(1.0, 2.0), False),
        (Silent(9.0, 10.05), True),
        (Silent(10.12, 10.18), True),
        (Silent(10.25, 11.5), True),
        (Silent(10.3 + AFTERMATH_SECONDS - 0.01, 15.0), True),
        (Silent(10.3 + AFTERMATH_SECONDS + 0.01, 15.0), False),
    ],
)
def test_a_silence_belongs_to_the_move_or_to_the_rest(silent: Silent, moved: bool) -> None:
    report = report_of(silent)
    expected = ([silent.seconds], [0.0])
    assert (stalls(report, WINDOW), steady_stalls(report, WINDOW)) == (expected if moved else expected[::-1])


def test_without_a_move_all_is_steady() -> None:
    assert steady_stalls(report_of(Silent(1.0, 2.0), Silent(10.1, 10.2)), None) == [1.0]


def test_probes_begun_in_the_freeze() -> None:
    probes = tuple(Probe(began, began, began) for began in (10.09, 10.1, 10.15, 10.2, 10.21))
    assert [probe.began for probe in probes_in_freeze(report_of(probes=probes), WINDOW)] == [10.1, 10.15, 10.2]


@pytest.mark.parametrize(
    "event",
    [
        Ready(1.0, 5),
        Tick(1.0, 2, 0, 5, 0, 0.1, 3, 0, 9),
        Failed("no"),
        report_of(Silent(1.0, 2.0), probes=(Probe(1.0, None, None, "refused"),)),
    ],
)
def test_events_survive_the_pipe(event: Event) -> None:
    line = msgspec.json.encode(event)
    assert b"\n" not in line
    assert DECODER.decode(line) == event
