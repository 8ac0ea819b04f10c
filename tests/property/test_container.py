"""No damage to a sealed object goes unseen: a thousand random ones, each byte, each cut, each exchange."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.archive.keys import Secret
from checkpoint.archive.sealing import Opener, Sealer
from checkpoint.core import container as c
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.squeeze import Mode, Squeeze

KEY = Secret(bytearray(range(32)))
CASES = 1000


def frames(chunks: list[bytes], image: str = "i", name: str = "small") -> list[bytes]:
    """The header, then each frame."""
    sealer = Sealer(KEY, image, name, Squeeze(Mode.AUTO), time.monotonic)
    return [sealer.header, *(sealer.seal(one, last=at == len(chunks) - 1) for at, one in enumerate(chunks))]


def opened(raw: bytes) -> bytes:
    opener = Opener(KEY, "i", "small")
    plain = b"".join(opener.feed(raw))
    opener.finish()
    return plain


def flip(parts: list[bytes], chance: random.Random) -> list[bytes]:
    at = chance.randrange(len(parts))
    raw = bytearray(parts[at])
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return [*parts[:at], bytes(raw), *parts[at + 1 :]]


def cut(parts: list[bytes], chance: random.Random) -> list[bytes]:
    raw = b"".join(parts)
    return [raw[: chance.randrange(len(raw))]]


def cut_at_a_frame(parts: list[bytes], chance: random.Random) -> list[bytes]:
    return parts[: chance.randrange(len(parts))]


def drop(parts: list[bytes], chance: random.Random) -> list[bytes]:
    at = chance.randrange(len(parts))
    return parts[:at] + parts[at + 1 :]


def swap(parts: list[bytes], chance: random.Random) -> list[bytes]:
    one, other = chance.sample(range(len(parts)), 2)
    parts = list(parts)
    parts[one], parts[other] = parts[other], parts[one]
    return parts


def repeat(parts: list[bytes], chance: random.Random) -> list[bytes]:
    at = chance.randrange(len(parts))
    return parts[: at + 1] + parts[at:]


def append(parts: list[bytes], chance: random.Random) -> list[bytes]:
    return [*parts, chance.randbytes(chance.randrange(1, 100))]


def from_another_object(parts: list[bytes], chance: random.Random) -> list[bytes]:
    """The same plain bytes, under another name, or in another image, or written another time."""
    image, name = chance.choice([("i", "file-1"), ("j", "small"), ("i", "small")])
    theirs = frames([b"x" * 50] * (len(parts) - 1), image, name)
    at = chance.randrange(len(parts))
    if (image, name) != ("i", "small") and chance.random() < 0.3:
        return theirs
    return [*parts[:at], theirs[at], *parts[at + 1 :]]


DAMAGES = (flip, flip, flip, cut, cut_at_a_frame, drop, swap, repeat, append, from_another_object)


def test_a_thousand_damages_are_seen():
    chance = random.Random(4)
    seen = 0
    for _ in range(CASES):
        chunks = [
            chance.randbytes(chance.randrange(200)) + b"x" * chance.randrange(300)
            for _ in range(chance.randrange(1, 6))
        ]
        parts = frames(chunks)
        assert opened(b"".join(parts)) == b"".join(chunks)
        damaged = chance.choice(DAMAGES)(parts, chance)
        if damaged == parts:
            damaged = flip(parts, chance)
        with pytest.raises(AgentError) as caught:
            opened(b"".join(damaged))
        seen += caught.value.code is Code.IMAGE_DAMAGED
    assert seen == CASES


def test_every_byte_and_every_cut_of_one():
    raw = b"".join(frames([b"memory" * 20, b"more", b""]))
    for at in range(len(raw)):
        for damaged in (raw[:at], raw[:at] + bytes([raw[at] ^ 0x80]) + raw[at + 1 :]):
            with pytest.raises(AgentError):
                opened(damaged)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.integers(1, 400))
def test_whatever_is_sealed_opens_in_pieces_of_any_size(chunks, step):
    raw = b"".join(frames(chunks))
    opener = Opener(KEY, "i", "small")
    plain = [one for at in range(0, len(raw), step) for one in opener.feed(raw[at : at + step])]
    opener.finish()
    assert plain == chunks


@given(st.binary(max_size=200))
def test_anything_else_is_refused(raw):
    reader = c.Reader("small")
    with pytest.raises(AgentError):  # noqa: PT012 - either may be the one to notice
        list(reader.feed(c.MAGIC + raw))
        reader.finish()
        raise AgentError(Code.IMAGE_DAMAGED, "well formed by chance: the tags would tell")
