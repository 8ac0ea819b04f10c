"""The store on a real tmpfs: folders, and what is proved of the files in them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint.core import manifest
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import gmac
from checkpoint.images import store as stores
from checkpoint.images.gmac import JOB_BYTES
from checkpoint.images.store import Store

KEY = bytes(range(32))
PAGES = "pages-1.img"


@pytest.fixture
def store():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        made = Store(Path(name) / "images")
        yield made
        made.close()


@pytest.fixture
def folder(store):
    folder = store.make("m").images
    (folder / "files.img").write_bytes(b"small")
    (folder / "empty.img").touch()
    (folder / PAGES).write_bytes(os.urandom(2 * JOB_BYTES + 5))
    return folder


async def seal(store, folder, key=KEY):
    dumped = stores.listing(folder)
    pages = await store.prove(folder, key, dumped, [PAGES])
    return await store.seal(folder, key, dumped, pages)


def test_folders_are_roots_own_and_empty_each_time(store):
    made = store.make("m")
    assert {path.stat().st_mode & 0o777 for path in (store.root, made.images, made.work)} == {0o700}
    (made.images / "x").touch()
    assert list(store.make("m").images.iterdir()) == []
    store.remove("m")
    store.remove("m")
    assert not made.images.exists()
    assert store.free_bytes() > 0


async def test_a_sealed_folder_is_read_again(store, folder):
    found, digest = await seal(store, folder)
    assert stores.read(folder, digest) == found == await store.survey(folder, KEY, stores.listing(folder))
    assert {name: len(one.tags) for name, one in found.files.items()} == {"files.img": 1, "empty.img": 1, PAGES: 9}
    with pytest.raises(AgentError, match="not the one that was sealed"):
        stores.read(folder, "0" * 64)


async def test_another_key_gives_other_tags(store, folder):
    found, _ = await seal(store, folder)
    other = await store.survey(folder, bytes(32), stores.listing(folder))
    for name, one in found.files.items():
        assert not set(one.tags) & set(other.files[name].tags)


@pytest.mark.parametrize("name", ["files.img", PAGES])
async def test_a_byte_written_after_the_seal_shows(store, folder, name):
    found, _ = await seal(store, folder)
    raw = (folder / name).read_bytes()
    with open(folder / name, "r+b") as file:
        file.write(bytes([raw[0] ^ 1]))
    with pytest.raises(AgentError, match=name):
        manifest.compare(found, await store.survey(folder, KEY, stores.listing(folder)))


@pytest.mark.parametrize("size", [JOB_BYTES, 2 * JOB_BYTES + 4, 2 * JOB_BYTES + 5])
async def test_pages_written_between_dump_and_seal_show_at_the_destination(store, folder, size):
    dumped = stores.listing(folder)
    pages = await store.prove(folder, KEY, dumped, [PAGES])
    with open(folder / PAGES, "r+b") as file:
        file.truncate(size)
        file.seek(-1, os.SEEK_END)
        last = (folder / PAGES).read_bytes()[-1]
        file.write(bytes([last ^ 1]))
    found, _ = await store.seal(folder, KEY, dumped, pages)
    with pytest.raises(AgentError, match=PAGES):
        manifest.compare(found, await store.survey(folder, KEY, stores.listing(folder)))


@pytest.mark.parametrize("size", [0, 5, manifest.CHUNK_BYTES, 2 * manifest.CHUNK_BYTES + 1])
async def test_what_is_proved_is_signed_for_and_not_what_the_file_became(store, folder, size):
    raw, name = os.urandom(size), "tcp-stream-1f.img"
    (folder / name).write_bytes(raw)
    proved = {name: gmac.proof(AESGCM(KEY), manifest.place_of_stream(0x1F), raw)}
    found, _ = await store.seal(folder, KEY, stores.listing(folder), proved)
    manifest.compare(found, await store.survey(folder, KEY, stores.listing(folder)))
    (folder / name).write_bytes(bytes(size) + b"x")
    with pytest.raises(AgentError, match=name):
        manifest.compare(found, await store.survey(folder, KEY, stores.listing(folder)))


def _by_a_link(folder):
    (folder / "files.img").unlink()
    (folder / "files.img").symlink_to("empty.img")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "more").touch(), "more was added"),
        (lambda folder: (folder / "files.img").unlink(), r"files\.img is missing"),
        (lambda folder: (folder / "link").symlink_to("files.img"), "link was added"),
        (_by_a_link, r"files\.img is no file"),
    ],
)
async def test_what_came_or_went_since_the_dump_is_not_sealed(store, folder, change, words):
    dumped = stores.listing(folder)
    pages = await store.prove(folder, KEY, dumped, [PAGES])
    change(folder)
    with pytest.raises(AgentError, match=words) as caught:
        await store.seal(folder, KEY, dumped, pages)
    assert caught.value.code is Code.IMAGE_DAMAGED
    assert not (folder / manifest.NAME).exists()


async def test_a_link_to_the_very_same_bytes_is_no_file(store, folder, tmp_path):
    """What it leads to may be another file by the time that CRIU reads it."""
    await seal(store, folder)
    shutil.move(folder / "files.img", tmp_path / "elsewhere")
    (folder / "files.img").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AgentError, match=r"files\.img, among the images, is no file") as caught:
        stores.listing(folder)
    assert caught.value.code is Code.IMAGE_DAMAGED


def test_a_root_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AgentError) as caught:
        Store(tmp_path / "file" / "images")
    assert caught.value.code is Code.NO_SPACE
