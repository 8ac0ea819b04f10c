"""The manifest for any folder: reads back as written, and no changed byte of it goes unseen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core import manifest as m
from checkpoint.core.errors import AgentError, Code

names = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)
tags = st.binary(min_size=m.TAG_BYTES, max_size=m.TAG_BYTES)


def proof(made: list[bytes], rest: int) -> m.Proof:
    return m.Proof(tuple(made), (len(made) - 1) * m.CHUNK_BYTES + rest)


proofs = st.builds(proof, st.lists(tags, min_size=1, max_size=3), st.integers(1, m.CHUNK_BYTES))
manifests = st.builds(m.Manifest, st.dictionaries(names, proofs, max_size=8))


@given(manifests)
def test_it_reads_back_as_written(manifest):
    assert m.decode(m.encode(manifest)) == manifest


@given(manifests, st.data())
def test_no_changed_byte_goes_unseen(manifest, data):
    raw = bytearray(m.encode(manifest))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    assert m.digest(bytes(raw)) != m.digest(m.encode(manifest))
    with pytest.raises(AgentError) as caught:
        m.compare(manifest, m.decode(bytes(raw)))
    assert caught.value.code is Code.IMAGE_DAMAGED


@given(st.binary(max_size=300))
def test_anything_else_is_refused_as_damage(raw):
    with pytest.raises(AgentError) as caught:
        m.decode(raw)
    assert caught.value.code is Code.IMAGE_DAMAGED
