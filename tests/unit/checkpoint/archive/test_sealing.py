"""Sealed and opened: the same bytes, compressed or not, in pieces of any size; under its own name only."""

from __future__ import annotations

import os
import time

import pytest

from checkpoint.archive.keys import Secret
from checkpoint.archive.sealing import Opener, Sealer
from checkpoint.core import container
from checkpoint.core.errors import AgentError
from checkpoint.core.squeeze import Mode, Squeeze

KEY = Secret(bytearray(range(32)))


def sealed(chunks: list[bytes], mode: Mode = Mode.OFF, name: str = "small", image: str = "i") -> bytes:
    sealer = Sealer(KEY, image, name, Squeeze(mode), time.monotonic)
    frames = [sealer.seal(one, last=at == len(chunks) - 1) for at, one in enumerate(chunks)]
    return sealer.header + b"".join(frames)


def opened(raw: bytes, step: int = 1 << 20, name: str = "small", image: str = "i", key: Secret = KEY) -> bytes:
    opener = Opener(key, image, name)
    plain = b"".join(chunk for at in range(0, len(raw), step) for chunk in opener.feed(raw[at : at + step]))
    opener.finish()
    return plain


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("step", [999, 1 << 20])
def test_what_was_sealed_opens(mode, step):
    chunks = [b"a" * 1000, os.urandom(1000), b"", bytes(container.CHUNK_BYTES)]
    assert opened(sealed(chunks, mode), step) == b"".join(chunks)


def test_zeros_take_little_room_and_noise_no_more_than_itself():
    assert len(sealed([bytes(container.CHUNK_BYTES)], Mode.ON)) < 2000
    noise = os.urandom(container.CHUNK_BYTES)
    overhead = container.HEADER_BYTES + container.HEAD_BYTES + container.TAG_BYTES
    assert len(sealed([noise], Mode.ON)) == len(noise) + overhead


def test_nothing_is_sealed_the_same_way_twice():
    assert sealed([b"a"]) != sealed([b"a"])


@pytest.mark.parametrize("other", [{"name": "file-1"}, {"image": "j"}, {"key": Secret(bytearray(32))}])
def test_under_another_name_it_does_not_open(other):
    with pytest.raises(AgentError, match="changed"):
        opened(sealed([b"a"]), **other)
