"""The wire between giver and taker: whole, aligned, bounded, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import (
    ANSWER_BYTES,
    DONE,
    EARLY,
    GET,
    HURRY,
    MOST_SAME,
    NOW,
    REQUEST_BYTES,
    SAME,
    SOON,
    Answer,
    Request,
    Same,
    decode_answer,
    decode_request,
    decode_same,
    encode_answer,
    encode_request,
    encode_same,
    placed,
    squeeze,
)

GOOD = Request(GET, 20002, 1, 7, 0x7F00_0000_0000, CHUNK_BYTES)


@pytest.mark.parametrize(
    "one",
    [
        GOOD,
        *(GOOD._replace(kind=kind) for kind in (NOW, SOON, HURRY)),
        Request(DONE),
        Request(SAME),
        Request(EARLY, number=9, size=1 << 40),
    ],
)
def test_a_request_comes_back_as_it_went(one):
    raw = encode_request(one)
    assert len(raw) == REQUEST_BYTES
    assert decode_request(raw) == one


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 0},
        {"kind": 8},
        {"kind": EARLY},
        {"kind": SAME},
        {"kind": DONE},
        {"size": 0},
        {"size": CHUNK_BYTES + PAGE_BYTES},
        {"size": PAGE_BYTES - 1},
        {"image": 1},
        {"image": (1 << 64) - PAGE_BYTES},
    ],
)
def test_anything_else_is_no_request(change):
    with pytest.raises(AgentError) as caught:
        decode_request(encode_request(GOOD._replace(**change)))
    assert caught.value.code is Code.BAD_REQUEST


def test_an_answer_comes_back_as_it_went_and_says_what_follows():
    raw = encode_answer(Answer(1, 7, 3 * PAGE_BYTES, 0b101))
    assert len(raw) == ANSWER_BYTES
    assert decode_answer(raw) == Answer(1, 7, 3 * PAGE_BYTES, 0b101)
    assert decode_answer(raw).body_bytes == 2 * PAGE_BYTES
    assert Answer(1, 7, PAGE_BYTES).body_bytes == 0


@pytest.mark.parametrize(
    "one",
    [
        Answer(1, 1, CHUNK_BYTES + PAGE_BYTES),
        Answer(1, 1, PAGE_BYTES, 0b10),
        Answer(1, 1, PAGE_BYTES, 0, 0b10),
        Answer(1, 1, PAGE_BYTES, 0b1, 0b1),
    ],
)
def test_anything_else_is_no_answer(one):
    with pytest.raises(AgentError) as caught:
        decode_answer(encode_answer(one))
    assert caught.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize("count", [0, 1, MOST_SAME])
def test_what_is_the_same_is_listed(count):
    some = [Same(1 << 22, at * CHUNK_BYTES, (1 << 64) - 1 - at) for at in range(count)]
    raw = memoryview(encode_same(some))
    head = decode_answer(bytes(raw[:ANSWER_BYTES]))
    assert head.body_bytes == len(raw) - ANSWER_BYTES == PAGE_BYTES
    assert decode_same(head, raw[ANSWER_BYTES:]) == some


@pytest.mark.parametrize(
    "one",
    [
        Answer(0, MOST_SAME + 1, PAGE_BYTES, 0b1),
        Answer(1, 1, PAGE_BYTES, 0b1),
        Answer(0, 1, PAGE_BYTES),
        Answer(0, 1, 2 * PAGE_BYTES, 0b1),
    ],
)
def test_anything_else_is_no_list(one):
    with pytest.raises(AgentError) as caught:
        decode_same(one, memoryview(bytes(PAGE_BYTES)))
    assert caught.value.code is Code.BAD_REQUEST


@given(st.lists(st.sampled_from(["zeros", "first", "last", "full"]), min_size=1, max_size=CHUNK_BYTES // PAGE_BYTES))
def test_only_pages_with_something_in_them_follow_and_each_is_what_it_was(kinds):
    made = {
        "zeros": bytes(PAGE_BYTES),
        "first": b"\x01" + bytes(PAGE_BYTES - 1),
        "last": bytes(PAGE_BYTES - 1) + b"\x01",
        "full": b"\xff" * PAGE_BYTES,
    }
    raw = bytearray(b"".join(made[kind] for kind in kinds))
    present = squeeze(memoryview(raw))
    assert [present >> place & 1 for place in range(len(kinds))] == [kind != "zeros" for kind in kinds]
    kept = [made[kind] for kind in kinds if kind != "zeros"]
    assert raw[: present.bit_count() * PAGE_BYTES] == b"".join(kept)


def test_what_the_taker_has_as_it_is_does_not_follow():
    raw = bytearray(b"".join(bytes([value]) * PAGE_BYTES for value in (0, 1, 2, 3)))
    assert squeeze(memoryview(raw), same=0b0110) == 0b1000
    assert raw[:PAGE_BYTES] == b"\x03" * PAGE_BYTES


@given(st.integers(0, (1 << 64) - 1))
def test_each_page_that_follows_has_its_place(present):
    found = list(placed(present))
    places = [at // PAGE_BYTES + step for at, _, size in found for step in range(size // PAGE_BYTES)]
    assert places == [page for page in range(64) if present >> page & 1]
    in_the_body = [at // PAGE_BYTES + step for _, at, size in found for step in range(size // PAGE_BYTES)]
    assert in_the_body == list(range(len(places)))
