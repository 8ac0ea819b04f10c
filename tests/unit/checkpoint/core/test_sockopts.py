"""The twin of checkpoint/core/sockopts.py."""

from __future__ import annotations

import sys

import pytest

from checkpoint.core.sockopts import (
    DATAGRAM,
    DATAGRAM_IPV6,
    EVERY,
    IPV6,
    LISTENING,
    MAXSEG,
    PRIORITY,
    STREAM,
    UNCONNECTED,
    lost,
    lost_clamp,
)

TOS = next(one for one in EVERY if one.name == "IP_TOS")
TTL = next(one for one in EVERY if one.name == "IP_TTL")


def test_each_option_is_there_once():
    every = [*EVERY, *STREAM, *LISTENING, *DATAGRAM, *IPV6, *DATAGRAM_IPV6, *UNCONNECTED, PRIORITY]
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


@pytest.mark.parametrize(("segment", "carried"), [(536, False), (700, True), (32767, True), (65483, False)])
def test_a_maximum_segment_size_is_carried_if_somebody_can_have_set_it(segment, carried):
    found = {MAXSEG: segment.to_bytes(4, sys.byteorder)}
    assert bool(lost(found, {MAXSEG: (536).to_bytes(4, sys.byteorder)})) is carried


# Seen of untouched connections, the first three: idle, after small requests, after a stream; then with somebody's.
@pytest.mark.parametrize(
    ("clamp", "receive_buffer", "carried"),
    [
        (64_088, 131_072, False),
        (111_115, 134_813, False),
        (2_445_965, 2_734_355, False),
        (56_588, 131_072, False),
        (20_000, 131_072, True),
        (64_088, 600_000, True),
    ],
)
def test_a_window_clamp_is_carried_where_the_kernel_would_not_have_it_so_low(clamp, receive_buffer, carried):
    expected = [("TCP_WINDOW_CLAMP", 6, 10, clamp.to_bytes(4, sys.byteorder).hex())] if carried else []
    assert lost_clamp(clamp, receive_buffer) == expected
