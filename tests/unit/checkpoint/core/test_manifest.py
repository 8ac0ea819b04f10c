"""The manifest: written and read, and what a difference is called."""

from __future__ import annotations

import hashlib

import pytest

from checkpoint.core import manifest as m
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import Manifest, Proof

TAG = bytes(range(16))
SMALL, PAGES = Proof((TAG,), 10), Proof((TAG, bytes(16)), m.CHUNK_BYTES + 1)
FULL = Manifest({"files.img": SMALL, "pages-1.img": PAGES})
HEX = TAG.hex().encode()


def test_what_is_written_can_be_read():
    raw = m.encode(FULL)
    assert raw.splitlines()[1:] == [HEX + b" 10 files.img", HEX + b" " + b"0" * 32 + b" 1048577 pages-1.img"]
    assert m.decode(raw) == FULL
    assert FULL.image_bytes == (1 << 20) + 11
    assert m.digest(b"x") == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    "lines",
    [
        b"nonsense",
        b"10 x",
        b" 10 x",
        HEX + b" 10 ../x",
        HEX + b" 10 ..",
        HEX + b" 10 ",
        HEX + b" 10 a b",
        HEX + b" ten x",
        HEX + b" -1 x",
        HEX + b" 010 x",
        HEX + b" " + b"9" * 5000 + b" x",
        HEX + b" 1048577 x",
        HEX + b" " + HEX + b" 10 x",
        HEX[:30] + b" 10 x",
        HEX[:30] + b"zz 10 x",
        HEX.upper() + b" 10 x",
        HEX + b" 10 x\n" + HEX + b" 10 x",
        HEX + b" 10 y\n" + HEX + b" 10 x",
        b"\xff",
        b"",
    ],
)
def test_no_other_line_is_read(lines):
    with pytest.raises(AgentError) as caught:
        m.decode(b"midstream-manifest 1\n" + lines + b"\n")
    assert caught.value.code is Code.IMAGE_DAMAGED


@pytest.mark.parametrize(
    "raw", [b"", b"midstream-manifest 2\n", b"midstream-manifest 1", b"midstream-manifest 1\n" + b"\n" * m.MAX_BYTES]
)
def test_nothing_else_is_read(raw):
    with pytest.raises(AgentError) as caught:
        m.decode(raw)
    assert caught.value.code is Code.IMAGE_DAMAGED


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"pages-1.img": PAGES}, "the file files.img is missing"),
        ({**FULL.files, "files.img": Proof((bytes(16),), 10)}, "the file files.img changed"),
        ({**FULL.files, "files.img": Proof((TAG,), 11)}, "the file files.img changed"),
        ({**FULL.files, "pages-1.img": Proof((bytes(16), TAG), PAGES.size)}, "the file pages-1.img changed"),
        ({**FULL.files, "x": SMALL}, "the file x was added"),
    ],
)
def test_a_difference_is_named(found, words):
    with pytest.raises(AgentError, match=words):
        m.compare(FULL, Manifest(found))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"pages-1.img": PAGES.size}, "the file files.img is missing"),
        ({"pages-1.img": PAGES.size, "files.img": 9}, "the file files.img has another size"),
        ({"pages-1.img": PAGES.size, "files.img": 10, "x": 0}, "the file x was added"),
    ],
)
def test_a_folder_of_another_shape_is_named(sizes, words):
    with pytest.raises(AgentError, match=words):
        m.compare_sizes(FULL, sizes)
    m.compare_sizes(FULL, {name: one.size for name, one in FULL.files.items()})


def test_no_difference_is_no_error():
    m.compare(FULL, Manifest(dict(reversed(FULL.files.items()))))


def test_memory_pages_are_known_by_their_name():
    assert m.is_pages("pages-12.img")
    assert not m.is_pages("pagemap-12.img")
    assert not m.is_pages("pages-12")
    assert not m.is_pages("pages-012.img"), "two names must not have one place"


def test_connections_are_known_by_their_name():
    assert m.inode_of("tcp-stream-1f.img") == 0x1F
    assert m.inode_of("tcp-stream-01f.img") is None, "two names must not have one place"
    assert m.inode_of("tcp-stream-1F.img") is m.inode_of("tcp-stream-100000000.img") is m.inode_of("files.img") is None


def test_every_chunk_has_a_nonce_of_its_own():
    places = m.places(["b", "c", "a"])
    assert places == {"a": 0, "b": 1 << 64, "c": 2 << 64}
    some = m.places(["pages-0.img", "pages-999999.img", "pages-1000000.img", "pages-00.img", "b"])
    assert (some["b"], some["pages-00.img"], some["pages-1000000.img"]) == (0, 2 << 64, 3 << 64)
    assert [some[name] for name in some if m.is_pages(name)] == [2**31 << 64, 2**31 + 999_999 << 64]
    rounds = m.places(["pages-999999.img", "round-1.pages-0.img", "round-1.pages-1.img", "round-999.pages-999999.img"])
    assert len(set(rounds.values())) == 4
    assert 2**31 << 64 <= min(rounds.values()) <= max(rounds.values()) < 2**32 << 64
    streams = m.places(["tcp-stream-0.img", "tcp-stream-1.img", "tcp-stream-ffffffff.img"])
    assert streams == {name: m.place_of_stream(m.inode_of(name)) for name in streams}
    assert 2**30 << 64 <= min(streams.values()) <= max(streams.values()) < 2**31 << 64
    assert [m.chunk_count(size) for size in (0, 1, m.CHUNK_BYTES, m.CHUNK_BYTES + 1)] == [1, 1, 1, 2]
    everywhere = [0, 1 << 64, 256 << 64, *rounds.values()]
    made = [m.nonce(place, chunk) for place in everywhere for chunk in (0, 1, 256, 2**32, 2**64 - 1)]
    made += [m.nonce(place, chunk) for place in streams.values() for chunk in (0, 1, 256, 2**24 - 1)]
    assert len(set(made)) == len(made)
    assert {len(one) for one in made} == {12}
