"""Framing: what comes in pieces of any size comes out as frames, and what cannot be a container is refused."""

from __future__ import annotations

import pytest

from checkpoint.core import container as c
from checkpoint.core.errors import AgentError, Code

SALT = bytes(range(16))


def frame(payload: bytes, *, last: bool = False, packed: bool = False) -> bytes:
    return c.head(len(payload), last=last, packed=packed) + payload


def frames_of(raw: bytes, step: int) -> list[c.Frame]:
    reader = c.Reader("small")
    found = [one for at in range(0, len(raw), step) for one in reader.feed(raw[at : at + step])]
    reader.finish()
    assert reader.salt == SALT
    return found


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_frames_come_out_in_their_order(step):
    raw = c.header(SALT) + frame(b"a" * 16) + frame(b"b" * 20, packed=True) + frame(b"c" * 16, last=True)
    found = frames_of(raw, step)
    assert [(one.index, one.payload, one.packed, one.last) for one in found] == [
        (0, b"a" * 16, False, False),
        (1, b"b" * 20, True, False),
        (2, b"c" * 16, False, True),
    ]
    assert found[1].head == c.head(20, last=False, packed=True)
    assert found[2].nonce == c.nonce(2, True)


def test_no_two_places_have_one_nonce():
    made = {c.nonce(index, last) for index in range(1000) for last in (False, True)}
    assert len(made) == 2000
    assert {len(one) for one in made} == {12}


def test_names_cannot_run_into_each_other():
    assert c.info("a", "bc") != c.info("ab", "c")


@pytest.mark.parametrize("size", [0, c.TAG_BYTES - 1, c.MAX_PAYLOAD_BYTES + 1])
def test_no_head_for_a_payload_that_cannot_be(size):
    with pytest.raises(ValueError, match="payload"):
        c.head(size, last=False, packed=False)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "cut short"),
        (c.header(SALT)[:-1], "cut short"),
        (b"MIDSIMG\x02" + SALT, "no container of this version"),
        (c.header(SALT), "cut short"),
        (c.header(SALT) + frame(b"a" * 16), "cut short"),
        (c.header(SALT) + frame(b"a" * 16, last=True)[:-1], "cut short"),
        (c.header(SALT) + frame(b"a" * 16, last=True) + b"x", "behind its end"),
        (c.header(SALT) + b"\x00\x00\x00\x0f" + b"a" * 15, "cannot be one"),
        (c.header(SALT) + b"\x20\x00\x00\x10" + b"a" * 16, "cannot be one"),
        (c.header(SALT) + b"\x00\xff\xff\xff", "cannot be one"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_what_is_no_container_is_refused(raw, words, step):
    with pytest.raises(AgentError, match=words) as caught:
        frames_of(raw, step)
    assert caught.value.code is Code.IMAGE_DAMAGED
