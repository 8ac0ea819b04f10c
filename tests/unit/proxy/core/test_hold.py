from __future__ import annotations

from proxy.core import hold


def test_the_share_is_an_equal_part() -> None:
    assert hold.share(1000, 4) == 250
    assert hold.share(1000, 0) == 1000


def test_the_offer_is_used_up_before_the_share() -> None:
    assert hold.left(offered=100, share_bytes=50, arrived=30) == (70, 50)
    assert hold.left(offered=100, share_bytes=50, arrived=120) == (0, 30)
    assert hold.left(offered=100, share_bytes=50, arrived=1000) == (0, 0)


def test_a_large_buffer_shrinks_to_what_is_left() -> None:
    size = hold.receive_buffer(allocated=1000, buffer=100_000, window_clamp=50_000, offered=10_000, share_bytes=500)
    assert size == 1000 + 20_000 + 500


def test_a_small_buffer_is_left_alone() -> None:
    assert hold.receive_buffer(1000, 20_000, 10_000, offered=10_000, share_bytes=0) is None


def test_the_ratio_stays_within_reason() -> None:
    assert hold.receive_buffer(0, 1 << 20, 1 << 30, offered=1000, share_bytes=0) == 1000
    assert hold.receive_buffer(0, 1 << 20, 0, offered=1000, share_bytes=0) == 4000
    assert hold.receive_buffer(0, 0, 0, 1000, 0) is None
