"""What is found of a process's memory before it stands still, and what is looked for afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from checkpoint.core.areas import BLOCK_BYTES, Area
from checkpoint.memory import scan
from checkpoint.memory.survey import Survey
from tests.unit.checkpoint.memory.conftest import AREA


@pytest.fixture
def scanned(monkeypatch):
    """The spans that the kernel is asked about."""
    spans: list[Area] = []
    written = scan.written
    monkeypatch.setattr(scan, "written", lambda page_map, area: spans.append(area) or written(page_map, area))
    return spans


def test_what_was_seen_ahead_is_not_looked_at_once_more(sleeper, scanned):
    survey = Survey()
    survey.begin_ahead([sleeper.pid])
    assert survey.is_ahead(30.0)
    survey.begin_ahead([sleeper.pid])  # as for another CRIU: once is enough
    area = Area(sleeper.large, sleeper.large + AREA)
    assert scanned.count(area) == 1
    scanned.clear()
    survey.begin([sleeper.pid])
    found = survey.written(sleeper.pid, area)
    assert area in survey.areas(sleeper.pid)
    looked_at = [one for one in scanned if area.start <= one.start < area.end]
    assert _size(found) == 4 * BLOCK_BYTES  # the first, two together, and the last
    assert _size(looked_at) == AREA - 4 * BLOCK_BYTES


def _size(spans: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)


def test_the_look_ahead_breaks_off_once_they_stand_still(sleeper):
    survey = Survey()
    survey.begin([sleeper.pid])
    survey.begin_ahead([sleeper.pid])
    assert survey.is_ahead(30.0)
    assert survey.written(sleeper.pid, Area(sleeper.large, sleeper.large + AREA))


def test_whoever_looks_is_waited_for_no_longer_than_that(sleeper, monkeypatch):
    go_on, wait = os.pipe()
    monkeypatch.setattr(scan, "written", lambda *_: os.read(go_on, 1) and [])
    survey = Survey()
    survey.begin_ahead([sleeper.pid])
    assert not survey.is_ahead(0.01)
    os.close(wait)
    assert survey.is_ahead(30.0)
    os.close(go_on)


def test_a_process_that_has_gone_is_an_error_in_words():
    with pytest.raises(OSError, match="No such file"):
        Survey().begin([1 << 22])
