"""The manifest: written and read, and what a difference is called."""

from __future__ import annotations

import hashlib

import pytest

from checkpoint.core import manifest as m
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import Manifest, Small, Stamp

SMALL, STAMP = Small("a" * 64, 10), Stamp(5, 6, 1 << 20)
FULL = Manifest({"files.img": SMALL}, {"pages-1.img": STAMP})


def test_what_is_written_can_be_read():
    assert m.decode(m.encode(FULL)) == FULL
    assert FULL.image_bytes == (1 << 20) + 10
    assert m.digest(b"x") == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"midstream-manifest 2\n",
        b"midstream-manifest 1",
        b"midstream-manifest 1\nnonsense\n",
        b"midstream-manifest 1\n" + b"a" * 64 + b" 10 ../x\n",
        b"midstream-manifest 1\n" + b"a" * 64 + b" 10 ..\n",
        b"midstream-manifest 1\n" + b"a" * 64 + b" ten x\n",
        b"midstream-manifest 1\n" + b"a" * 64 + b" 10 x\n" + b"a" * 64 + b" 10 x\n",
        b"midstream-manifest 1\nbulk 1 2 3 \n",
        b"midstream-manifest 1\n\xff\n",
        b"midstream-manifest 1\n" + b"\n" * m.MAX_BYTES,
    ],
)
def test_nothing_else_is_read(raw):
    with pytest.raises(AgentError) as caught:
        m.decode(raw)
    assert caught.value.code is Code.IMAGE_DAMAGED


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Manifest({}, FULL.bulk), "the file files.img is missing"),
        (Manifest({"files.img": Small("b" * 64, 10)}, FULL.bulk), "the file files.img changed"),
        (Manifest({**FULL.small, "x": SMALL}, FULL.bulk), "the file x was added"),
        (Manifest(FULL.small, {"pages-1.img": Stamp(5, 7, 1 << 20)}), "the bulk file pages-1.img changed"),
    ],
)
def test_a_difference_is_named(found, words):
    with pytest.raises(AgentError, match=words):
        m.compare(FULL, found)


def test_no_difference_is_no_error():
    m.compare(FULL, Manifest(dict(FULL.small), dict(FULL.bulk)))


def test_memory_pages_and_long_queues_are_bulk():
    assert m.is_bulk("pages-12.img", 1)
    assert m.is_bulk("tcp-stream-ab.img", m.BULK_BYTES)
    assert not m.is_bulk("tcp-stream-ab.img", m.BULK_BYTES - 1)
    assert not m.is_pages("pagemap-12.img")


def test_the_bulks_digest_depends_on_every_chunk_and_name():
    one = m.bulk_digest({"a": [b"1", b"2"]})
    assert one != m.bulk_digest({"a": [b"1", b"3"]})
    assert one != m.bulk_digest({"b": [b"1", b"2"]})
    assert one != m.bulk_digest({"a": [b"12"]})
    assert m.bulk_digest({"a": [b"1"], "b": [b"2"]}) == m.bulk_digest({"b": [b"2"], "a": [b"1"]})
