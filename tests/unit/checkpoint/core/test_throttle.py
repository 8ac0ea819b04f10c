"""A limit is kept, with a short burst after a pause; without one nobody waits."""

from __future__ import annotations

import pytest

from checkpoint.core.throttle import BURST_SECONDS, Throttle


def test_without_a_limit_nobody_waits():
    throttle = Throttle(0)
    assert [throttle.delay(1 << 30, now) for now in (0.0, 0.0)] == [0.0, 0.0]


def test_a_limit_is_kept():
    throttle = Throttle(1000.0)
    now = sent = 0.0
    for _ in range(100):
        now += throttle.delay(100, now)
        sent += 100
    assert sent / (now + BURST_SECONDS + 0.1) == pytest.approx(1000.0)


def test_a_pause_earns_no_more_than_a_burst():
    throttle = Throttle(1000.0)
    throttle.delay(100, 0.0)
    assert throttle.delay(int(1000 * BURST_SECONDS), 100.0) == 0.0
    assert throttle.delay(100, 100.0) == pytest.approx(0.0)
    assert throttle.delay(100, 100.0) == pytest.approx(0.1)


def test_what_is_urgent_goes_a_burst_earlier_and_all_together_is_no_more_than_the_limit():
    throttle = Throttle(1000.0)
    throttle.delay(200, 0.0)
    assert throttle.pause(0.0) == pytest.approx(0.2 - BURST_SECONDS)
    assert throttle.delay(100, 0.0, urgent=True) == pytest.approx(0.2 - 2 * BURST_SECONDS)
    assert throttle.pause(0.1) == pytest.approx(0.2 - BURST_SECONDS)
    now = sent = 0.0
    for _ in range(100):
        now += throttle.delay(100, now, urgent=True)
        sent += 100
    assert sent <= 1000.0 * (now + 2 * BURST_SECONDS)
    assert Throttle(0).pause(0.0) == 0.0
