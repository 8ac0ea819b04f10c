"""What is sent when: as a file grows, when it is closed, or at the end; and again where a connection broke."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core.consignment import Consignment, is_edited
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.core.parcel import MAX_PIECES, Parcel, Piece


def taken(one: Consignment) -> list[Parcel]:
    found = []
    while (parcel := one.take()) is not None:
        found.append(parcel)
    return found


def pieces(one: Consignment) -> list[Piece]:
    return [piece for parcel in taken(one) for piece in parcel.pieces]


def test_a_file_that_grows_goes_in_whole_chunks_and_its_end_when_it_is_closed():
    one = Consignment()
    one.grown("pages-1.img", CHUNK_BYTES - 1)
    assert one.take() is None
    one.grown("pages-1.img", 2 * CHUNK_BYTES + 5)
    one.grown("pages-1.img", 2 * CHUNK_BYTES + 6)
    assert pieces(one) == [
        Piece("pages-1.img", 0, CHUNK_BYTES, False), Piece("pages-1.img", CHUNK_BYTES, CHUNK_BYTES, False),
    ]  # fmt: skip
    one.closed("pages-1.img", 2 * CHUNK_BYTES + 7)
    one.closed("pages-1.img", 2 * CHUNK_BYTES + 7)
    one.grown("pages-1.img", 2 * CHUNK_BYTES + 7)
    assert pieces(one) == [Piece("pages-1.img", 2 * CHUNK_BYTES, 7, True)]
    one.closed("pages-2.img", CHUNK_BYTES)
    assert pieces(one) == [Piece("pages-2.img", 0, CHUNK_BYTES, True)]


def test_a_file_that_had_gone_to_its_last_byte_is_ended_all_the_same():
    one = Consignment()
    one.grown("pages-1.img", CHUNK_BYTES)
    one.closed("pages-1.img", CHUNK_BYTES)
    assert pieces(one) == [Piece("pages-1.img", 0, CHUNK_BYTES, False), Piece("pages-1.img", CHUNK_BYTES, 0, True)]


def test_what_is_edited_waits_for_the_end():
    one = Consignment()
    for name in ("files.img", "tcp-stream-1f.img", "core-7.img", "mm-7.img", "manifest"):
        assert is_edited(name)
        one.grown(name, 2 * CHUNK_BYTES)
        one.closed(name, 9)
    assert one.take() is None
    one.seal({"files.img": 3, "tcp-stream-1f.img": 0, "core-7.img": 2, "mm-7.img": 5, "manifest": 1})
    found = pieces(one)
    assert {(each.name, each.size, each.last) for each in found} == {
        ("files.img", 3, True), ("tcp-stream-1f.img", 0, True), ("core-7.img", 2, True), ("mm-7.img", 5, True),
        ("manifest", 1, True),
    }  # fmt: skip


def test_small_files_share_a_parcel_and_large_ones_do_not():
    one = Consignment()
    for at in range(MAX_PIECES + 1):
        one.closed(f"ids-{at}.img", 10)
    one.closed("pages-1.img", CHUNK_BYTES)
    assert [len(each.pieces) for each in taken(one)] == [MAX_PIECES, 1, 1]


def test_complete_is_what_is_sealed_and_has_arrived():
    one = Consignment()
    one.closed("ids-1.img", 10)
    (first,) = taken(one)
    one.arrived(first.number)
    assert (one.idle, one.complete) == (True, False)
    one.seal({"ids-1.img": 10, "manifest": 4})
    assert not one.complete
    (second,) = taken(one)
    assert not one.complete
    one.arrived(second.number)
    assert one.complete
    assert one.sent_bytes == 14


def test_what_a_broken_connection_had_not_delivered_goes_again_first():
    one = Consignment()
    one.closed("a.img", CHUNK_BYTES)
    one.closed("b.img", CHUNK_BYTES)
    one.closed("c.img", CHUNK_BYTES)
    first, second = one.take(), one.take()
    one.arrived(first.number)
    one.lost([first.number, second.number])
    assert [each.pieces[0].name for each in taken(one)] == ["b.img", "c.img"]


def test_a_folder_that_is_begun_anew():
    one = Consignment()
    one.closed("a.img", 5)
    one.closed("b.img", CHUNK_BYTES)
    early = one.take()
    one.restart()
    one.lost([early.number])
    one.arrived(early.number)
    assert one.take() is None
    one.seal({"a.img": 6})
    (late,) = taken(one)
    assert (late.attempt, late.pieces) == (1, (Piece("a.img", 0, 6, True),))
    assert late.number > early.number
    one.arrived(late.number)
    assert one.complete


@pytest.mark.parametrize(
    ("before", "sizes"),
    [
        (lambda one: one.closed("a.img", 5), {}),
        (lambda one: one.closed("a.img", 5), {"a.img": 6}),
        (lambda one: one.closed("a.img", 5), {"a.img": 4}),
        (lambda one: one.grown("a.img", CHUNK_BYTES), {"a.img": 4}),
        (lambda one: (one.grown("a.img", CHUNK_BYTES), one.closed("a.img", 4)), {"a.img": 4}),
    ],
)
def test_a_folder_that_is_not_what_was_sent_is_refused(before, sizes):
    one = Consignment()
    before(one)
    with pytest.raises(AgentError, match=r"the file a\.img") as caught:
        one.seal(sizes)
    assert caught.value.code is Code.IMAGE_DAMAGED


NAMES = st.sampled_from(["pages-1.img", "pages-2.img", "ids-1.img", "files.img"])


@given(st.lists(st.tuples(NAMES, st.integers(0, 3 * CHUNK_BYTES), st.booleans()), max_size=20), st.data())
def test_every_byte_goes_and_each_file_ends_where_it_does(growth, data):
    one, sizes, closed = Consignment(), {}, set()
    sent: list[Parcel] = []
    for name, more, close in growth:
        if name not in closed:
            sizes[name] = sizes.get(name, 0) + more
            (one.closed if close else one.grown)(name, sizes[name])
            if close:
                closed.add(name)
        if data.draw(st.booleans()) and (parcel := one.take()) is not None:
            sent.append(parcel)
            if data.draw(st.booleans()):
                one.lost([parcel.number])
    one.seal(sizes)
    sent += taken(one)
    arrived: dict[str, set[tuple[int, int]]] = {name: set() for name in sizes}
    ends = {}
    for parcel in sent:
        assert parcel.size <= CHUNK_BYTES
        one.arrived(parcel.number)
        for piece in parcel.pieces:
            arrived[piece.name].add((piece.offset, piece.size))
            if piece.last:
                ends[piece.name] = piece.offset + piece.size
    assert one.complete
    assert ends == sizes
    for name, spans in arrived.items():
        at = 0
        for offset, size in sorted(spans):
            assert offset == at
            at += size
        assert at == sizes[name]
