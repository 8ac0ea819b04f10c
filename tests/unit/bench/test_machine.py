"""What else the machine did meanwhile."""

from __future__ import annotations

import pytest

from tests.bench.machine import Usage


def test_what_others_used_is_what_was_used_and_not_by_us():
    before, later = Usage(100.0, 50.0, 1.0, 10.0), Usage(120.0, 60.0, 1.5, 16.0)
    assert before.others_until(later) == pytest.approx(0.2)
    assert before.stolen_until(later) == pytest.approx(0.025)
    assert before.others_until(before) == 0.0
    now = Usage.now()
    assert now.total > now.busy > now.own > 0
