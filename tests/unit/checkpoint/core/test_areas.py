"""What CRIU is spared: large, private, anonymous, not locked; said in whole blocks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core.areas import AREA_BYTES, BLOCK_BYTES, Area, between, blocks, join, large, within

START = 0x7F00_0000_0000
FREE = "Name:\tredis\nVmLck:\t       0 kB\n"


def line(access: str = "rw-p", inode: int = 0, name: str = "", size: int = AREA_BYTES) -> str:
    return f"{START:x}-{START + size:x} {access} 00000000 00:00 {inode} {name}\n"


@pytest.mark.parametrize("name", ["", "[heap]", "[anon:jemalloc]"])
@pytest.mark.parametrize("access", ["rw-p", "---p", "r-xp"])
def test_a_large_private_anonymous_area_is_spared(access, name):
    assert large(line(access, name=name), FREE) == [Area(START, START + AREA_BYTES)]


@pytest.mark.parametrize(
    "maps",
    [
        line("rw-s"),
        line(inode=7, name="/usr/bin/redis"),
        line(inode=9, name="/anon_hugepage (deleted)"),
        line(name="[stack]"),
        line(name="[vdso]"),
        line(size=AREA_BYTES - 4096),
        "",
    ],
)
def test_anything_else_is_criu_s(maps):
    assert large(maps, FREE) == []


@pytest.mark.parametrize("status", ["VmLck:\t     4 kB\n", "Name:\tzombie\n"])
def test_nothing_is_spared_of_a_process_that_has_locked_memory_or_does_not_say(status):
    assert large(line(), status) == []


def test_blocks_are_whole_and_stay_in_the_area():
    area = Area(START + 4096, START + 3 * BLOCK_BYTES - 4096)
    assert blocks(area, START + 8192, START + 12288) == (area.start, START + BLOCK_BYTES)
    assert blocks(area, START + BLOCK_BYTES, START + BLOCK_BYTES + 1) == (START + BLOCK_BYTES, START + 2 * BLOCK_BYTES)
    assert blocks(area, START + 2 * BLOCK_BYTES, area.end) == (START + 2 * BLOCK_BYTES, area.end)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9))))
def test_joined_ranges_have_the_same_and_do_not_touch(spans):
    ranges = sorted((start, start + size) for start, size in spans)
    joined = join(ranges)
    assert {one for a, b in joined for one in range(a, b)} == {one for a, b in ranges for one in range(a, b)}
    assert all(a[1] < b[0] for a, b in pairwise(joined))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9))), st.integers(0, 60), st.integers(1, 60))
def test_an_area_is_what_lies_within_it_and_what_is_between(spans, start, size):
    area = Area(start, start + size)
    ranges = join(sorted((at, at + length) for at, length in spans))
    inside = within(area, ranges)
    rest = between(area, inside)
    assert all(a < b for a, b in [*inside, *rest])
    assert _numbers(inside) == sorted(set(_numbers(ranges)) & set(range(*area)))
    assert sorted(_numbers(inside) + _numbers(rest)) == list(range(*area))


def _numbers(spans: Iterable[tuple[int, int]]) -> list[int]:
    return [one for span in spans for one in range(*span)]
