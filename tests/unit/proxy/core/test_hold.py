from __future__ import annotations

from proxy.core import hold


def test_the_share_is_an_equal_part() -> None:
    assert hold.share(1000, 4) == 250
    assert hold.share(1000, 0) == 1000


def test_what_has_arrived_counts_but_the_share_stays() -> None:
    assert hold.allowance(offered=100, share_bytes=50, arrived=30) == 120
    assert hold.allowance(offered=100, share_bytes=50, arrived=1000) == 50


def test_a_large_buffer_shrinks_to_what_is_allowed() -> None:
    assert hold.receive_buffer(allocated=1000, buffer=100_000, window_clamp=50_000, allowed=10_000) == 21_000


def test_a_small_buffer_is_left_alone() -> None:
    assert hold.receive_buffer(allocated=1000, buffer=20_000, window_clamp=10_000, allowed=10_000) is None


def test_the_ratio_stays_within_reason() -> None:
    assert hold.receive_buffer(0, 1 << 20, 1 << 30, 1000) == 1000
    assert hold.receive_buffer(0, 1 << 20, 0, 1000) == 4000
    assert hold.receive_buffer(0, 0, 0, 1000) is None
