"""What is asked for, and where it is put, while a process runs whose pages are still to come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core.pages import (
    CHUNK_BYTES,
    FAULT_BYTES,
    NEAR_BYTES,
    PAGE_BYTES,
    REGION_BYTES,
    Ask,
    Due,
    Hurry,
    Put,
    Space,
    pieces,
)

BASE = 16 * CHUNK_BYTES


def page(number: int) -> int:
    return BASE + number * PAGE_BYTES


def space(pages: int = 64) -> Space:
    return Space([(page(0), page(pages))])


def test_a_fault_asks_for_the_page_and_its_neighbours_once():
    one = space()
    asked = one.fault(page(9))
    assert asked == Ask(1, page(8), FAULT_BYTES)
    assert one.fault(page(10)) is Due.COMING
    assert (one.is_asked(1), one.is_asked(2), one.asked_count) == (True, False, 1)
    assert one.outstanding() == [(asked, True)]


def test_what_nobody_waited_for_and_now_somebody_does_is_hurried_once():
    one = space()
    asked = one.next(4 * PAGE_BYTES)
    assert isinstance(asked, Ask)
    assert one.outstanding() == [(asked, False)]
    assert one.fault(page(1)) == Hurry(asked)
    assert one.fault(page(2)) is Due.COMING
    assert one.outstanding() == [(asked, True)]
    one.done(asked.number)
    assert one.fault(page(1)) is Due.ZERO


def test_with_each_further_fault_of_a_region_twice_as_much_around_it_follows_up_to_a_chunk():
    one = Space([(BASE, BASE + 2 * REGION_BYTES)])
    sizes = []
    for number in range(7):
        address = BASE + number * CHUNK_BYTES
        asked = one.fault(address)
        assert isinstance(asked, Ask)
        sizes.append([asked.size, *(near.size for near in one.near(address))])
    assert [sum(some) // FAULT_BYTES for some in sizes] == [1, 2, 4, 8, 16, 16, 16]
    assert max(size for some in sizes for size in some) == NEAR_BYTES
    assert one.fault(BASE + REGION_BYTES) == Ask(one.asked_count, BASE + REGION_BYTES, FAULT_BYTES)
    assert one.near(BASE + REGION_BYTES) == []


def test_what_follows_a_fault_lies_around_it_and_is_wanted_and_nobody_waits_for_it():
    one = space(64)
    for address in (page(0), page(16)):
        one.fault(address)
        one.near(address)
    one.removed(page(37), page(38))
    one.fault(page(40))
    around = one.near(page(40))
    assert [(ask.image, ask.size // PAGE_BYTES) for ask in around] == [(page(32), 5), (page(38), 2), (page(44), 4)]
    assert not any(awaited for ask, awaited in one.outstanding() if ask in around)


def test_a_page_that_was_never_written_is_zeros():
    assert space().fault(page(64)) is Due.ZERO


def test_what_has_come_is_put_where_it_was_and_is_done():
    one = space(4)
    asked = one.fault(page(1))
    assert isinstance(asked, Ask)
    assert asked.size == 4 * PAGE_BYTES
    assert one.arrived(asked.number) == [Put(page(0), 0, 4 * PAGE_BYTES)]
    assert (one.complete, one.left_bytes) == (False, 4 * PAGE_BYTES)
    one.done(asked.number)
    assert (one.complete, one.left_bytes, one.next()) == (True, 0, None)


def test_the_background_goes_on_where_the_last_fault_was_and_then_from_the_beginning():
    one = Space([(BASE, BASE + 3 * CHUNK_BYTES)])
    one.fault(BASE + CHUNK_BYTES)
    asked = []
    while (ask := one.next()) is not None:
        asked.append(ask)
    assert asked[0] == Ask(2, BASE + CHUNK_BYTES + FAULT_BYTES, CHUNK_BYTES)
    assert sum(ask.size for ask in asked) == 3 * CHUNK_BYTES - FAULT_BYTES
    assert max(ask.size for ask in asked) == CHUNK_BYTES


def test_what_the_process_dropped_is_put_nowhere():
    one = space(4)
    asked = one.fault(page(0))
    assert isinstance(asked, Ask)
    one.removed(page(1), page(2))
    assert one.arrived(asked.number) == [Put(page(0), 0, PAGE_BYTES), Put(page(2), 2 * PAGE_BYTES, 2 * PAGE_BYTES)]
    assert one.left_bytes == 3 * PAGE_BYTES


def test_what_the_process_moved_is_asked_for_by_its_old_address_and_put_at_its_new_one():
    one = space(64)
    coming = one.fault(page(0))
    assert isinstance(coming, Ask)
    far = 4 * BASE
    one.remapped(page(0), far, 64 * PAGE_BYTES)
    assert one.fault(page(0)) is Due.ZERO
    assert one.fault(far) is Due.COMING
    assert one.arrived(coming.number) == [Put(far, 0, FAULT_BYTES)]
    asked = one.fault(far + FAULT_BYTES)
    assert asked == Ask(2, page(0) + FAULT_BYTES, FAULT_BYTES)


def test_a_child_wants_everything_that_has_not_come():
    one = space(64)
    one.fault(page(0))
    child = one.forked()
    assert child.left_bytes == one.left_bytes == 64 * PAGE_BYTES
    assert child.asked_count == 0
    assert child.fault(page(0)) == Ask(1, page(0), FAULT_BYTES)


actions = st.one_of(
    st.tuples(st.just("fault"), st.integers(0, 70)),
    st.tuples(st.just("removed"), st.integers(0, 60)),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("next"), st.just(0)),
)


@given(st.lists(actions, max_size=40))
def test_each_page_comes_once_unless_the_process_dropped_it(steps):
    one = space()
    there: list[int] = []
    dropped: set[int] = set()

    def answer(number: int) -> None:
        for put in one.arrived(number):
            there.extend(range(put.address, put.address + put.size, PAGE_BYTES))
        one.done(number)

    for what, value in steps:
        if what == "fault":
            one.fault(page(value))
        elif what == "removed":
            one.removed(page(value), page(value + 3))
            dropped |= {page(number) for number in range(value, value + 3)}
        elif what == "next":
            one.next()
        elif (asked := one.outstanding()) and value < len(asked):
            answer(asked[value][0].number)
    while one.next() is not None:
        pass
    for ask, _ in one.outstanding():
        answer(ask.number)
    assert one.complete
    assert len(there) == len(set(there))
    assert {page(number) for number in range(64)} - dropped <= set(there)


def test_what_came_ahead_fills_what_is_wanted_and_in_its_place():
    one = Space([(page(0), page(8)), (page(16), page(20))])
    one.fault(page(16))  # its answer comes
    one.remapped(page(2), page(32), PAGE_BYTES)
    assert one.unmoved(page(1), page(6)) == [(page(1), page(2)), (page(3), page(6))]
    assert one.unmoved(page(8), page(33)) == []
    one.filled(page(0), page(40))
    assert one.left_bytes == 5 * PAGE_BYTES
    assert one.next() == Ask(2, page(2), PAGE_BYTES)
    assert one.asked_count == 2


@given(st.integers(0, 63), st.integers(1, 64), st.integers(0, (1 << 64) - 1))
def test_the_pieces_of_an_answer_are_all_of_it_each_from_where_it_is_in_the_body(first, count, present):
    count = min(count, 64 - first)
    put = Put(page(100), first * PAGE_BYTES, count * PAGE_BYTES)
    present &= (1 << 64) - 1
    body = [number for number in range(64) if present >> number & 1]
    seen = []
    for one in pieces(put, present):
        for step in range(one.size // PAGE_BYTES):
            at = None if one.offset is None else body[one.offset // PAGE_BYTES + step]
            seen.append(((one.address - page(100)) // PAGE_BYTES + first + step, at))
    assert [number for number, _ in seen] == list(range(first, first + count))
    assert all(at == (number if present >> number & 1 else None) for number, at in seen)


def test_neighbours_that_were_never_written_either_are_zeros_too_up_to_what_is_to_come():
    one = Space([(page(8), page(16)), (page(40), page(41))])
    one.fault(page(40))  # asked for is to come as well
    assert one.never_written(page(20)) == (page(16), page(40))
    assert one.never_written(page(2)) == (page(0), page(8))
    assert one.never_written(page(50)) == (page(41), page(64))
