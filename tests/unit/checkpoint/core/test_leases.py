"""Leases and times: what may be collected, and when."""

from __future__ import annotations

import pytest

from checkpoint.core import leases
from checkpoint.core.stored import Ready


def ready(ttl_seconds: float) -> Ready:
    return Ready(1, "i", "w", 0.0, ttl_seconds, 1, 1, 1, "0" * 64, "k", "")


def test_a_lease_says_how_long_it_lasts():
    name = leases.lease_name("ab12", 300.5)
    assert leases.lease_seconds(name) == 300 + leases.MARGIN_SECONDS
    assert leases.folder("i") == "migrations/i"


@pytest.mark.parametrize("name", ["ready", "lease-", "lease-x-y", "data/lease-5-a"])
def test_other_names_are_no_leases(name):
    assert leases.lease_seconds(name) is None


def test_a_lease_lives_until_it_runs_out():
    found = {"ready": 0.0, "lease-100-a": 1000.0, "lease-10-b": 1000.0}
    assert leases.live(found, 1005) == ["lease-10-b", "lease-100-a"]
    assert leases.live(found, 1050) == ["lease-100-a"]
    assert leases.live(found, 1101) == []


def test_an_image_without_a_time_to_live_stays():
    assert leases.expires(ready(0), 5.0) == 0
    assert not leases.collectable(ready(0), 5.0, [], 1e12)


def test_one_that_is_past_it_goes_unless_it_is_used():
    assert leases.expires(ready(60), 1000.0) == 1060
    assert not leases.collectable(ready(60), 1000.0, [], 1059)
    assert leases.collectable(ready(60), 1000.0, [], 1061)
    assert not leases.collectable(ready(60), 1000.0, ["lease-100-a"], 1061)


def test_remains_go_when_their_writer_cannot_be_at_it_any_more():
    assert leases.collectable(None, 0.0, [], 1)
    assert not leases.collectable(None, 0.0, ["lease-100-a"], 1)
