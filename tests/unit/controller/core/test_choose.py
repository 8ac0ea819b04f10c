"""The way that memory goes, and why."""

from __future__ import annotations

import pytest

from checkpoint.api import MemoryFeatures
from controller.core.choose import (
    EARLY_BYTES,
    EARLY_SPARE_BYTES,
    SHORT_FREEZE_SECONDS,
    STRAIGHT_BYTES,
    choose,
    fall_back,
    usable,
)
from controller.core.predict import Rates, Sample, Size, predict

GIB = 1 << 30
FRESH = Rates(copy_bytes_per_second=1e9)
ALL = MemoryFeatures(40 * GIB, tells_pages=True)


def test_little_memory_goes_inside_the_freeze():
    found, problems = choose("auto", Size(10 << 20), FRESH, ALL)
    assert (found.way, found.risk, problems) == ("stop-and-copy", "", [])
    assert found.freeze_seconds < SHORT_FREEZE_SECONDS
    assert [one.way for one in found.others] == ["post-copy"]


def test_much_memory_comes_afterwards_and_the_risk_is_said():
    found, problems = choose("auto", Size(4 * GIB), FRESH, ALL)
    assert (found.way, problems) == ("post-copy", [])
    assert "needs the pod it left" in found.risk
    assert "stop-and-copy" in found.reason


def test_where_every_move_takes_long_little_memory_is_not_why():
    rates = FRESH
    for way, seconds in (("stop-and-copy", 0.9), ("post-copy", 0.4)):
        rates = rates.learnt(Sample(way, Size(2 << 20), seconds, 2.0))
    assert choose("auto", Size(2 << 20), rates, ALL)[0].way == "stop-and-copy"
    assert choose("auto", Size(4 * GIB), rates, ALL)[0].way == "post-copy"


def test_a_limit_on_the_wire_counts_where_images_go_over_it():
    def limited(way, size, **more):
        found, _ = choose(way, Size(size), FRESH, ALL, limit_bytes_per_second=1e6, **more)
        return found.way, pytest.approx(found.freeze_seconds), pytest.approx(found.total_seconds)

    assert limited("stop-and-copy", 20_000_000) == limited("stop-and-copy", 20_000_000, room_bytes=GIB)
    assert limited("stop-and-copy", 20_000_000, direct=True) == ("stop-and-copy", 20.0, 20.0)
    assert limited("auto", 20_000_000, direct=True) == ("post-copy", (1 << 20) / 1e6, 20.0)
    way, freeze, total = limited("stop-and-copy", 80_000_000, direct=True, room_bytes=GIB)
    assert (way, total) == ("stop-and-copy", 80.0)
    assert freeze == (1 << 20) / 1e6, "it is sent before the freeze"


def test_from_process_to_process_it_goes_where_it_is_enough_and_both_agents_can_inside_the_freeze():
    def straight(wanted, size, features):
        return choose(wanted, Size(size), FRESH, features)[0].goes_straight

    assert straight("stop-and-copy", STRAIGHT_BYTES, ALL)
    assert not straight("stop-and-copy", STRAIGHT_BYTES - 1, ALL)
    assert not straight("stop-and-copy", STRAIGHT_BYTES, MemoryFeatures())
    assert not straight("post-copy", STRAIGHT_BYTES, ALL)


@pytest.mark.parametrize(
    ("memory_bytes", "room_bytes", "limit_bytes", "words"),
    [
        (GIB, 4 * GIB, 3 * GIB - EARLY_SPARE_BYTES, "sent before the freeze"),
        (GIB, GIB + EARLY_BYTES + EARLY_SPARE_BYTES, EARLY_BYTES, "sent before the freeze"),
        (GIB, GIB + EARLY_BYTES + EARLY_SPARE_BYTES - 1, 0, "twice the room"),
        (EARLY_BYTES - 1, 4 * GIB, 0, ""),
    ],
)
def test_what_goes_straight_is_sent_before_the_freeze_where_there_is_room_for_it(
    memory_bytes, room_bytes, limit_bytes, words
):
    found, _ = choose("stop-and-copy", Size(memory_bytes), FRESH, ALL, room_bytes, direct=True)
    assert found.early_bytes == limit_bytes
    assert choose("post-copy", Size(memory_bytes), FRESH, ALL, room_bytes, direct=True)[0].early_bytes == 0
    assert words in found.reason
    plain, _ = choose("stop-and-copy", Size(memory_bytes), FRESH, ALL, room_bytes)
    assert (plain.early_bytes, plain.reason) == (limit_bytes, "asked for")
    assert (found.freeze_seconds < plain.freeze_seconds) is (limit_bytes > 0)
    cannot, _ = choose("stop-and-copy", Size(memory_bytes), FRESH, MemoryFeatures(), room_bytes, direct=True)
    assert (cannot.early_bytes, cannot.reason) == (0, "asked for")


def test_nothing_is_sent_before_the_freeze_where_the_kernel_does_not_say_what_there_is():
    found, _ = choose("stop-and-copy", Size(GIB), FRESH, MemoryFeatures(40 * GIB), 4 * GIB, direct=True)
    assert found.early_bytes == 0
    assert "Linux 6.7" in found.reason


def test_moves_whose_memory_was_sent_before_teach_only_about_such():
    rates = FRESH.learnt(Sample("stop-and-copy", Size(GIB), 0.6, 4.0, early=True))
    assert predict("stop-and-copy", Size(GIB), rates).freeze_seconds > 1
    assert predict("stop-and-copy", Size(GIB), rates, early=True).freeze_seconds == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("features", "words"),
    [(MemoryFeatures(), "not possible here"), (MemoryFeatures(GIB), "not possible here")],
)
def test_without_post_copy_auto_falls_back(features, words):
    found, problems = choose("auto", Size(4 * GIB), FRESH, features)
    assert (found.way, problems) == ("stop-and-copy", [])
    assert words in found.reason


def test_post_copy_that_would_not_be_shorter_is_not_worth_its_risk():
    slow = FRESH.learnt(Sample("post-copy", Size(GIB), 9.0, 9.0))
    found, _ = choose("auto", Size(GIB), slow, ALL)
    assert (found.way, found.reason) == ("stop-and-copy", "post-copy would not make the freeze shorter")


@pytest.mark.parametrize("way", ["stop-and-copy", "post-copy"])
def test_what_is_asked_for_is_taken(way):
    found, problems = choose(way, Size(GIB), FRESH, ALL)
    assert (found.way, found.reason, problems) == (way, "asked for", [])


@pytest.mark.parametrize(
    ("wanted", "features", "code", "words"),
    [
        ("post-copy", MemoryFeatures(), "post-copy-unavailable", "userfaultfd"),
        ("post-copy", MemoryFeatures(GIB // 2), "post-copy-unavailable", "up to 512 MiB"),
    ],
)
def test_what_is_not_possible_here_is_refused_in_words(wanted, features, code, words):
    _, (problem,) = choose(wanted, Size(GIB), FRESH, features)
    assert problem.code == code
    assert words in problem.message
    assert problem.hint


def test_pages_are_given_by_one_and_fetched_by_the_other_but_tracked_by_one_only():
    assert usable(MemoryFeatures(GIB, 40 * GIB), MemoryFeatures(2 * GIB)) == MemoryFeatures(GIB, 40 * GIB)
    assert usable(MemoryFeatures(GIB), MemoryFeatures(GIB, 40 * GIB)) == MemoryFeatures(GIB)
    assert usable(MemoryFeatures(GIB, tells_pages=True), MemoryFeatures(GIB)).tells_pages
    assert not usable(MemoryFeatures(GIB), MemoryFeatures(GIB, tells_pages=True)).tells_pages


TRACKED = MemoryFeatures(40 * GIB, 40 * GIB)


def test_pre_copy_is_taken_where_it_is_asked_for_and_possible_and_its_fallback_is_said():
    found, problems = choose("pre-copy", Size(4 * GIB), FRESH, TRACKED)
    assert (found.way, found.fallback, found.fell_back, problems) == ("pre-copy", "post-copy", "", [])
    assert found.reason == "asked for; by post-copy where the workload writes too fast for it"
    assert choose("pre-copy", Size(4 * GIB), FRESH, MemoryFeatures(0, 40 * GIB))[0].fallback == "stop-and-copy"


def test_its_freeze_is_half_the_copy_and_its_whole_time_more_than_one():
    found, plain = predict("pre-copy", Size(10**9), FRESH), predict("stop-and-copy", Size(10**9), FRESH)
    assert predict("post-copy", Size(10**9), FRESH).freeze_seconds < found.freeze_seconds < plain.freeze_seconds
    assert found.total_seconds > plain.total_seconds


@pytest.mark.parametrize(("size", "way"), [(10 << 20, "stop-and-copy"), (4 * GIB, "post-copy")])
def test_where_the_kernel_does_not_track_it_goes_as_if_nothing_had_been_asked_for_and_says_so(size, way):
    found, problems = choose("pre-copy", Size(size), FRESH, ALL)
    assert (found.way, found.fallback, problems) == (way, None, [])
    assert "CONFIG_MEM_SOFT_DIRTY" in found.fell_back
    assert found.reason.startswith(found.fell_back)
    assert "pre-copy" not in [one.way for one in found.others]


def test_and_so_it_does_where_it_is_too_much():
    found, _ = choose("pre-copy", Size(4 * GIB), FRESH, MemoryFeatures(40 * GIB, GIB))
    assert found.way == "post-copy"
    assert found.fell_back.startswith("pre-copy is possible up to 1024 MiB")


def test_auto_takes_it_for_much_memory_where_post_copy_is_not_possible():
    found, _ = choose("auto", Size(4 * GIB), FRESH, MemoryFeatures(0, 40 * GIB))
    assert (found.way, found.fallback) == ("pre-copy", "stop-and-copy")
    slow = FRESH.learnt(Sample("pre-copy", Size(GIB), 9.0, 9.0))
    assert choose("auto", Size(GIB), slow, MemoryFeatures(0, 40 * GIB))[0].way == "stop-and-copy"
    assert choose("auto", Size(4 * GIB), FRESH, TRACKED)[0].way == "post-copy"


def test_rounds_in_vain_lead_to_the_way_that_was_said():
    begun, _ = choose("pre-copy", Size(4 * GIB), FRESH, TRACKED)
    found = fall_back(begun, "it writes too fast")
    assert (found.way, found.fallback) == ("post-copy", None)
    assert found.fell_back == "pre-copy was given up: it writes too fast"
    assert "needs the pod it left" in found.risk
    assert [one.way for one in found.others] == ["stop-and-copy"]


def test_no_crowd_of_connections_makes_little_memory_follow_afterwards():
    """The freeze is long, but not for the memory: the risk would be taken in vain."""
    found, _ = choose("auto", Size(60 << 20, 9000), FRESH, ALL)
    assert found.way == "stop-and-copy"
    assert found.freeze_seconds > 1
    assert choose("auto", Size(4 * GIB, 9000), FRESH, ALL)[0].way == "post-copy"


def test_memory_that_cannot_be_left_behind_goes_inside_the_freeze_and_it_is_said_why():
    why = "post-copy is not possible: 8 TiB"
    found, problems = choose("auto", Size(4 * GIB), FRESH, ALL, 100 * GIB, direct=True, no_post_copy=why)
    assert (found.way, found.reason, problems) == ("stop-and-copy", "post-copy is not possible: 8 TiB", [])
    assert not found.straight
    _, (problem,) = choose("post-copy", Size(4 * GIB), FRESH, ALL, no_post_copy=why)
    assert (problem.code, problem.message) == ("post-copy-unavailable", "post-copy is not possible: 8 TiB")
