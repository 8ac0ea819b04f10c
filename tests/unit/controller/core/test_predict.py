"""How long a move will take, from what moves have taken before, and from the machine where there were none."""

from __future__ import annotations

import pytest

from controller.core.predict import MUCH_BYTES, SAMPLES_KEPT, Rates, Sample, Size, predict

FRESH = Rates(copy_bytes_per_second=1e9)
LITTLE = 1 << 20


def test_without_a_move_the_probe_decides():
    assert predict("stop-and-copy", Size(0), FRESH).freeze_seconds == pytest.approx(0.1)
    assert predict("stop-and-copy", Size(10**9), FRESH).freeze_seconds == pytest.approx(1.1)
    lazily = predict("post-copy", Size(10**9), FRESH)
    assert lazily.freeze_seconds < 0.3 < lazily.total_seconds


def test_moves_of_little_memory_teach_the_base_and_moves_of_much_the_rate():
    rates = FRESH
    for sample in (
        Sample("stop-and-copy", Size(1 << 20), 0.05, 0.2),
        Sample("stop-and-copy", Size(10 * MUCH_BYTES), 2.05, 2.4),
        Sample("post-copy", Size(10 * MUCH_BYTES), 0.2, 9.0),
    ):
        rates = rates.learnt(sample)
    found = predict("stop-and-copy", Size(20 * MUCH_BYTES), rates)
    assert (found.freeze_seconds, found.total_seconds) == (pytest.approx(4.05), pytest.approx(4.6))
    assert predict("stop-and-copy", Size(1 << 20), rates).freeze_seconds == pytest.approx(0.05, abs=0.01)


def test_with_little_moves_alone_little_memory_takes_what_they_took():
    rates = FRESH.learnt(Sample("stop-and-copy", Size(1 << 20), 0.05, 0.2))
    assert predict("stop-and-copy", Size(2 << 20), rates).freeze_seconds == pytest.approx(0.05)
    assert predict("stop-and-copy", Size(10**9), rates).freeze_seconds == pytest.approx(1.05)


def test_what_is_long_ago_is_forgotten():
    rates = FRESH
    for number in range(SAMPLES_KEPT + 5):
        rates = rates.learnt(Sample("post-copy", Size(number), 1.0, 1.0))
    assert [one.size.memory_bytes for one in rates.samples] == list(range(5, SAMPLES_KEPT + 5))


def freeze(rates: Rates, *size: int) -> float:
    return predict("stop-and-copy", Size(*size), rates).freeze_seconds


def test_connections_processes_and_threads_take_their_time_whichever_way_the_memory_goes():
    assert freeze(FRESH, 0, 1000) == pytest.approx(0.1 + 0.15)
    assert freeze(FRESH, 0, 0, 301, 301) == pytest.approx(0.1 + 3.6)
    assert freeze(FRESH, 0, 0, 1, 1001) == pytest.approx(0.1 + 1.2)
    plain, crowded = (predict("post-copy", Size(10**9, count), FRESH) for count in (0, 1000))
    assert crowded.freeze_seconds - plain.freeze_seconds == pytest.approx(0.15)
    assert crowded.total_seconds - plain.total_seconds == pytest.approx(3.0)


@pytest.mark.parametrize("crowd", [(1000,), (0, 51, 51), (0, 1, 501), (1000, 51, 551)])
def test_a_crowd_teaches_what_each_of_it_takes(crowd):
    """And does not make a move without one longer."""
    taken = freeze(FRESH, LITTLE, *crowd) * 3
    rates = FRESH.learnt(Sample("stop-and-copy", Size(LITTLE, *crowd), taken, 9.0))
    assert freeze(rates, LITTLE, *crowd) >= taken * 0.9
    assert freeze(rates, LITTLE) <= 0.1 + 0.01


def test_a_crowd_that_took_no_longer_is_no_crowd():
    rates = FRESH.learnt(Sample("stop-and-copy", Size(LITTLE, 1000), 0.05, 0.2))
    assert 0 <= freeze(rates, LITTLE, 1000) <= 0.1
