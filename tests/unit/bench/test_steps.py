"""Where the freeze goes, and what a connection adds."""

from __future__ import annotations

import pytest

from tests.bench import steps
from tests.harness.measured import everything, figures, moved


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
