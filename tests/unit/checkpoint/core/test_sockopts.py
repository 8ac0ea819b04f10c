"""The twin of checkpoint/core/sockopts.py."""

from __future__ import annotations

from checkpoint.core.sockopts import EVERY, IPV6, LISTENING, PRIORITY, lost

TOS = next(one for one in EVERY if one.name == "IP_TOS")
TTL = next(one for one in EVERY if one.name == "IP_TTL")


def test_each_option_is_there_once():
    every = [*EVERY, *LISTENING, *IPV6, PRIORITY]
    assert len({(one.level, one.number) for one in every}) == len({one.name for one in every}) == len(every)


def test_a_fresh_socket_has_nothing_to_lose():
    fresh = {TOS: b"\0", TTL: b"\x40", PRIORITY: b"\0"}
    assert lost(fresh, fresh) == []
    assert lost(fresh | {PRIORITY: b"\4"}, fresh) == []  # CRIU's own affair


def test_the_priority_comes_after_what_changes_it():
    fresh = {TOS: b"\0", TTL: b"\x40", PRIORITY: b"\0"}
    assert lost(fresh | {TOS: b"\x28"}, fresh) == [("IP_TOS", 0, 1, "28"), ("SO_PRIORITY", 1, 12, "00")]
    assert lost({TTL: b"\x37"}, fresh) == [("IP_TTL", 0, 2, "37")]


def test_what_a_fresh_socket_does_not_know_is_carried():
    assert lost({TTL: b"\x37"}, {}) == [("IP_TTL", 0, 2, "37")]
