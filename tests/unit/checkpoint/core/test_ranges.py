"""Ranges of addresses, cut and moved about."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core.ranges import Range, Ranges

SIZE = 64


def whole() -> Ranges:
    return Ranges([Range(10, 20, 110), Range(0, 5, 100), Range(30, 40, 130)])


def test_they_are_sorted_and_know_their_size():
    ranges = whole()
    assert [one.start for one in ranges] == [0, 10, 30]
    assert (len(ranges), ranges.size) == (3, 25)


def test_what_is_at_an_address():
    ranges = whole()
    assert ranges.at(10) == Range(10, 20, 110)
    assert ranges.at(19) == Range(10, 20, 110)
    assert ranges.at(20) is None
    assert Ranges().at(0) is None


def test_what_comes_after_an_address_and_then_from_the_beginning():
    ranges = whole()
    assert ranges.after(15) == Range(10, 20, 110)
    assert ranges.after(20) == Range(30, 40, 130)
    assert ranges.after(40) == Range(0, 5, 100)
    assert Ranges().after(0) is None


def test_a_cut_leaves_what_lies_outside():
    ranges = whole()
    assert ranges.within(3, 12) == [Range(3, 5, 103), Range(10, 12, 110)]
    assert ranges.within(12, 3) == []
    assert ranges.cut(3, 12) == [Range(3, 5, 103), Range(10, 12, 110)]
    assert list(ranges) == [Range(0, 3, 100), Range(12, 20, 112), Range(30, 40, 130)]
    assert ranges.cut(32, 34) == [Range(32, 34, 132)]
    assert list(ranges)[2:] == [Range(30, 32, 130), Range(34, 40, 134)]
    assert ranges.cut(20, 30) == []


@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=12))
def test_however_it_is_cut_each_byte_is_inside_or_was_taken_out_once(cuts):
    ranges = Ranges([Range(0, SIZE, 1000)])
    left = set(range(SIZE))
    for start, end in cuts:
        taken = [at for one in ranges.cut(start, end) for at in range(one.start, one.end)]
        assert set(taken) == {at for at in left if start <= at < end}
        assert len(taken) == len(set(taken))
        left -= set(taken)
    assert {at for one in ranges for at in range(one.start, one.end)} == left
    assert all(one.image - one.start == 1000 for one in ranges)
