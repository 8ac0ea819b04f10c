"""What is said of a freeze before it begins: refused where it cannot fit into the hold, warned where it may not."""

from __future__ import annotations

import pytest

from checkpoint.api import Belongings, DeletedFile
from controller.core.choose import LATE_BYTES, Choice
from controller.core.hold import MISJUDGED, SPARSE, SQUEEZED, judged, predicted
from controller.core.plan import Plan
from controller.core.predict import Prediction
from controller.core.transfer import Transfer

MIB = 1 << 20
HOLD = 10.0
QUICK = Choice("stop-and-copy", 0.1, 0.4, [Prediction("post-copy", 0.05, 0.7)])
STRAIGHT = Choice("stop-and-copy", 0.1, 0.4, straight=True)
AHEAD = Choice("stop-and-copy", 0.1, 0.4, straight=True, early_limit_bytes=100 * MIB)


def plan(choice: Choice = QUICK, memory_bytes: int = 64 * MIB, shared_bytes: int = 0, ghost_bytes: int = 0) -> Plan:
    files = Belongings(deleted=[DeletedFile("/gone", ghost_bytes)])
    return Plan(
        "w", "a", "b", 1, [], 1, 1, memory_bytes, 0, [], {}, [], memory=choice, files=files, shared_bytes=shared_bytes
    )


def found(one: Plan, rate: float, *, direct: bool = True) -> tuple[list[str], list[str]]:
    """The codes of its problems, and of its warnings."""
    plan = judged(one, Transfer("direct", bytes_per_second=rate), HOLD, direct=direct)
    return [each.code for each in plan.problems], [each.code for each in plan.warnings]


REFUSED, WARNED, SILENT = (["hold-too-short"], []), ([], ["hold-too-short"]), ([], [])


def test_a_limit_that_is_a_slip_of_the_unit_is_refused_with_the_figures():
    (problem,) = judged(plan(), Transfer("direct", bytes_per_second=100), HOLD, direct=True).problems
    assert problem.message == (
        "at 100 B a second the 64.0 MiB that travel inside the freeze take 7.77 days, and --max-hold is 10.00 s"
    )
    assert problem.hint == "raise --transfer-rate or --max-hold, or choose --memory post-copy"
    assert problem.fault == "request"


@pytest.mark.parametrize("choice", [QUICK, STRAIGHT])
def test_what_may_be_compressed_or_left_out_is_warned_of_and_what_fits_is_not_spoken_of(choice):
    margin = SPARSE if choice.straight else SQUEEZED
    fitting = (64 * MIB + (LATE_BYTES if choice.straight else 0)) / HOLD
    assert found(plan(choice), fitting) == SILENT
    assert found(plan(choice), 0.9 * fitting) == WARNED
    assert found(plan(choice), 1.1 * fitting / margin) == WARNED
    assert found(plan(choice), 0.9 * fitting / margin) == REFUSED


def test_a_program_with_little_memory_has_little_images():
    assert found(plan(Choice("post-copy", 0.1, 0.7), 100_000), 9_000) == WARNED
    assert found(plan(Choice("post-copy", 0.1, 0.7), 100_000), 400) == REFUSED


def test_only_between_agents_and_only_where_there_is_a_limit():
    assert found(plan(), 100, direct=False) == SILENT
    assert found(plan(), 0) == SILENT


def test_memory_that_is_sent_ahead_may_change_meanwhile_and_no_more_than_that_is_known():
    assert found(plan(AHEAD), MIB) == WARNED
    (warning,) = judged(plan(AHEAD), Transfer("direct", bytes_per_second=MIB), HOLD, direct=True).warnings
    assert warning.message == (
        "at 1.0 MiB a second the memory is sent ahead in 64.00 s; "
        "if more than 10.0 MiB of it change meanwhile, they do not fit into --max-hold 10.00 s"
    )
    assert found(plan(AHEAD), 7 * MIB) == SILENT
    assert found(plan(AHEAD, memory_bytes=1000 * MIB), MIB) == REFUSED, "there is room for a tenth of it"


@pytest.mark.parametrize(("way", "shared"), [("post-copy", REFUSED), ("pre-copy", SILENT)])
def test_of_memory_that_goes_before_or_after_the_freeze_what_goes_inside_counts(way, shared):
    choice = Choice(way, 0.1, 5.0)
    assert found(plan(choice), MIB) == SILENT
    assert found(plan(choice, memory_bytes=900 * MIB, shared_bytes=900 * MIB), MIB) == shared
    assert found(plan(choice, ghost_bytes=900 * MIB), MIB) == REFUSED


@pytest.mark.parametrize(
    ("seconds", "words"), [(HOLD, SILENT), (HOLD * 1.1, WARNED), (HOLD * MISJUDGED * 1.1, REFUSED)]
)
def test_a_measurement_is_refused_by_only_where_it_is_far_beyond(seconds, words):
    assert found(plan(Choice("stop-and-copy", seconds, seconds)), 0) == words


def test_what_is_said_of_a_prediction():
    choice = Choice("stop-and-copy", 300.0, 301.0, [Prediction("post-copy", 0.3, 400.0)])
    one = predicted(choice, HOLD)
    assert one is not None
    assert one.problem.message == "the freeze is predicted to take 5 min, and --max-hold is 10.00 s"
    assert one.problem.hint == "raise --max-hold, or choose --memory post-copy"
