"""What is remembered of memory that was sent before the freeze, and where it is kept."""

from __future__ import annotations

import pytest

from checkpoint.core.early import ALL_PAGES, TAG_BYTES, UNIT_BYTES, Chunk, Kept, Part, Sent, Slot, another_pass, whole
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import Answer, Same

ONE, OTHER = Chunk(5, 4 * CHUNK_BYTES), Chunk(6, 4 * CHUNK_BYTES)
UNITS = CHUNK_BYTES // UNIT_BYTES


def tags(**changed: int) -> bytes:
    """Of a chunk of which these units, by name, have other contents."""
    found = [bytes([changed.get(f"unit{number}", 0)]) * TAG_BYTES for number in range(UNITS)]
    return b"".join(found)


def answer(number: int, present: int = 0, same: int = 0, chunk: Chunk = ONE) -> Answer:
    return Answer(chunk.process, number, CHUNK_BYTES, present, same, chunk.image)


def test_only_whole_chunks_are_sent():
    assert whole([(CHUNK_BYTES - PAGE_BYTES, 3 * CHUNK_BYTES + PAGE_BYTES)]) == [CHUNK_BYTES, 2 * CHUNK_BYTES]
    assert whole([(PAGE_BYTES, CHUNK_BYTES), (CHUNK_BYTES, 2 * CHUNK_BYTES - PAGE_BYTES)]) == []


@pytest.mark.parametrize(
    ("sent", "more"),
    [
        ([1000], True),
        ([0], False),
        ([1000, 400], True),
        ([1000, 600], False),  # as fast as it is sent
        ([1000, 15], False),  # little
        ([1000, 400, 190], True),
        ([1000, 400, 190, 80], False),  # often enough
    ],
)
def test_it_is_looked_again_as_long_as_that_gets_less(sent, more):
    assert another_pass(sent) is more


def test_what_has_the_same_tags_is_the_same_unit_by_unit():
    sent = Sent()
    assert sent.same(ONE, tags()) == 0
    assert sent.send(ONE, tags()) == 1
    assert sent.same(ONE, tags()) == ALL_PAGES
    assert sent.same(ONE, tags(unit1=1)) == ALL_PAGES & ~0b1111_0000
    assert sent.same(OTHER, tags()) == 0
    assert (ONE in sent, OTHER in sent, len(sent), sent.chunks) == (True, False, 1, [ONE])


def test_what_did_not_arrive_is_forgotten_and_what_was_there_of_the_chunk_before_too():
    sent = Sent()
    sent.send(ONE, tags())
    sent.send(OTHER, tags())
    assert sent.send(ONE, tags(unit2=1)) == 3
    sent.arrived(2)
    assert sent.chunks == [OTHER]
    assert sent.same(ONE, tags()) == 0
    assert sent.send(ONE, tags()) == 3, "the taker counts what arrives"
    sent.arrived(9)
    assert sent.number == 3


def test_a_chunk_has_a_slot_and_keeps_it():
    kept = Kept(2 * CHUNK_BYTES)
    assert kept.take(answer(1, present=0b1)) == Slot(0, ALL_PAGES & ~0b1)
    assert kept.take(answer(2, present=ALL_PAGES, chunk=OTHER)) == Slot(CHUNK_BYTES, 0)
    # The second page has something now, the first has nothing any more; the rest are as they were.
    assert kept.take(answer(3, present=0b10, same=ALL_PAGES & ~0b11)) == Slot(0, ALL_PAGES & ~0b10)
    assert (kept.number, kept.size) == (3, 2 * CHUNK_BYTES)
    assert kept.slot(Same(*ONE, 0)) == Slot(0, ALL_PAGES & ~0b10)


def part(image: int, size: int, *pages: tuple[int, int, int]) -> Part:
    """In pages, behind the beginning of ONE."""
    rows = [(ONE.image + at * PAGE_BYTES, offset * PAGE_BYTES, some * PAGE_BYTES) for at, offset, some in pages]
    return Part(ONE.process, ONE.image + image * PAGE_BYTES, size * PAGE_BYTES, rows)


def test_what_is_the_same_is_found_where_it_is_kept_and_what_follows_it_with_it():
    pages = CHUNK_BYTES // PAGE_BYTES
    then = Chunk(ONE.process, ONE.image + CHUNK_BYTES)
    kept = Kept(3 * CHUNK_BYTES)
    kept.take(answer(1, present=ALL_PAGES & ~0b0110))
    kept.take(answer(2, present=ALL_PAGES, chunk=then))
    kept.take(answer(3, present=ALL_PAGES, chunk=OTHER))
    assert kept.parts([Same(*ONE, ALL_PAGES), Same(*then, 0b11)]) == [
        part(0, pages + 2, (0, 0, 1), (3, 3, pages - 3 + 2)),  # the second and the third page were zeros
    ]
    assert kept.parts([Same(*ONE, 0b110100)]) == [part(2, 1), part(4, 2, (4, 4, 2))]
    assert kept.parts([Same(*ONE, 0b1), Same(*OTHER, 0b1)])[1] == Part(
        OTHER.process, OTHER.image, PAGE_BYTES, [(OTHER.image, 2 * CHUNK_BYTES, PAGE_BYTES)]
    )
    assert kept.parts([Same(*then, 0)]) == []


def test_rows_whose_slots_do_not_follow_are_two():
    then = Chunk(ONE.process, ONE.image + CHUNK_BYTES)
    kept = Kept(2 * CHUNK_BYTES)
    kept.take(answer(1, present=ALL_PAGES, chunk=then))
    kept.take(answer(2, present=ALL_PAGES))
    pages = CHUNK_BYTES // PAGE_BYTES
    assert kept.parts([Same(*ONE, ALL_PAGES), Same(*then, ALL_PAGES)]) == [
        part(0, 2 * pages, (0, pages, pages), (pages, 0, pages))
    ]


def test_what_never_came_cannot_be_the_same():
    kept = Kept(CHUNK_BYTES)
    with pytest.raises(AgentError) as caught:
        kept.parts([Same(*ONE, 0)])
    assert caught.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize(
    "nonsense",
    [
        answer(3, present=1),  # one is missing
        answer(2, same=1, chunk=OTHER),  # as it never was
        answer(2, present=1, chunk=OTHER),  # there is no room
        answer(2, present=1)._replace(image=ONE.image + PAGE_BYTES),
        answer(2, present=1)._replace(size=PAGE_BYTES),
    ],
)
def test_what_no_giver_sends_is_refused_and_changes_nothing(nonsense):
    kept = Kept(CHUNK_BYTES)
    kept.take(answer(1, present=1))
    with pytest.raises(AgentError) as caught:
        kept.take(nonsense)
    assert caught.value.code is Code.BAD_REQUEST
    assert (kept.number, kept.size) == (1, CHUNK_BYTES)
