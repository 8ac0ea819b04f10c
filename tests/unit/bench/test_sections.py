"""Runs that fail, and sections that are asked for."""

from __future__ import annotations

from tests.bench.figures import SECTIONS, Failure, Figures
from tests.bench.sections import SECTIONS as MEASURES
from tests.bench.sections import _attempts
from tests.harness.interposer import DESTINATION_REFUSES
from tests.harness.measured import figures


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


def test_the_sections_are_the_ones_that_can_be_asked_for():
    assert tuple(MEASURES) == SECTIONS
    assert len(DESTINATION_REFUSES) == 6
