"""Tags of real files: what they are, and what they are made of."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint.core import manifest
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import gmac
from checkpoint.images.gmac import Span

KEY = bytes(range(32))
MIB = manifest.CHUNK_BYTES


def whole(name: str, place: int, size: int) -> Span:
    return Span(name, place, size, range(manifest.chunk_count(size)))


def test_the_tag_of_nothing_is_the_standards(tmp_path):
    """Test case 13 of the GCM specification (McGrew and Viega, appendix B): a key and a nonce of zeros."""
    (tmp_path / "empty").touch()
    made = gmac.tag(str(tmp_path), bytes(32), [whole("empty", 0, 0)])
    assert made == [[bytes.fromhex("530f8afbc74536b9a963b4f1c4cb738b")]]


def test_each_chunk_is_tagged_in_its_place(tmp_path):
    raw = os.urandom(2 * MIB + 5)
    (tmp_path / "pages-1.img").write_bytes(raw)
    expected = [AESGCM(KEY).encrypt(manifest.nonce(7, at), b"", raw[at * MIB : (at + 1) * MIB]) for at in range(3)]
    assert gmac.tag(str(tmp_path), KEY, [whole("pages-1.img", 7, len(raw))]) == [expected]
    assert gmac.proof(AESGCM(KEY), 7, raw) == manifest.Proof(tuple(expected), len(raw))
    parts = [Span("pages-1.img", 7, len(raw), range(2)), Span("pages-1.img", 7, len(raw), range(2, 3))]
    assert gmac.tag(str(tmp_path), KEY, parts) == [expected[:2], expected[2:]]


def test_the_work_is_cut_into_jobs_of_one_length():
    sizes = {"pages-1.img": 9 * MIB, "b": 3, "a": 0, "c": 2 * MIB}
    first = manifest.place_of_pages("pages-1.img")
    jobs = gmac.plan(sizes, ["c", "b", "pages-1.img", "a"])
    assert [[(one.name, one.place, one.chunks) for one in job] for job in jobs] == [
        [("c", 2 << 64, range(2)), ("b", 1 << 64, range(1)), ("pages-1.img", first, range(4))],
        [("pages-1.img", first, range(4, 8))],
        [("pages-1.img", first, range(8, 9)), ("a", 0, range(1))],
    ]
    rest = gmac.plan(sizes, ["pages-1.img", "b"], {"pages-1.img": 7, "b": 1})
    assert [[(one.name, one.chunks) for one in job] for job in rest] == [[("pages-1.img", range(7, 9))]]
    assert gmac.plan(sizes, []) == []
    many = {f"{number}": 1 for number in range(gmac.JOB_SPANS + 1)}
    assert [len(job) for job in gmac.plan(many, many)] == [gmac.JOB_SPANS, 1]


@pytest.mark.parametrize("size", [2 * MIB - 1, 2 * MIB + 1, MIB])
def test_an_end_that_moved_shows_in_a_large_file(tmp_path, size):
    (tmp_path / "pages-1.img").write_bytes(bytes(size))
    with pytest.raises(AgentError, match=r"pages-1\.img changed while it was read") as caught:
        gmac.tag(str(tmp_path), KEY, [whole("pages-1.img", 0, 2 * MIB)])
    assert caught.value.code is Code.IMAGE_DAMAGED


@pytest.mark.parametrize("what", ["shorter", "longer", "gone", "link", "folder", "pipe"])
def test_what_is_not_the_file_it_was_is_damage(tmp_path, what):
    path = tmp_path / "files.img"
    make = {
        "shorter": lambda: path.write_bytes(b"ab"),
        "longer": lambda: path.write_bytes(b"abcd"),
        "gone": lambda: None,
        "link": lambda: path.symlink_to("/proc/version"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }
    make[what]()
    with pytest.raises(AgentError, match=r"files\.img") as caught:
        gmac.tag(str(tmp_path), KEY, [whole("files.img", 0, 3)])
    assert caught.value.code is Code.IMAGE_DAMAGED
