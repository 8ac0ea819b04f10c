"""The store on a real tmpfs: folders, stamps, hashes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from checkpoint import store as stores
from checkpoint.core import manifest
from checkpoint.core.errors import AgentError, Code
from checkpoint.store import Store


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
    (folder / "pages-1.img").write_bytes(os.urandom(manifest.CHUNK_BYTES + 5))
    return folder


def test_folders_are_roots_own_and_empty_each_time(store):
    made = store.make("m")
    assert {path.stat().st_mode & 0o777 for path in (store.root, made.images, made.work)} == {0o700}
    (made.images / "x").touch()
    assert list(store.make("m").images.iterdir()) == []
    store.remove("m")
    store.remove("m")
    assert not made.images.exists()
    assert store.free_bytes() > 0


def test_a_sealed_folder_is_read_again(folder):
    found, digest = stores.seal(folder, stores.stamps(folder))
    assert stores.read(folder, digest) == found == stores.survey(folder)
    assert found.small["files.img"].sha256 == hashlib.sha256(b"small").hexdigest()
    with pytest.raises(AgentError, match="not the one that was sealed"):
        stores.read(folder, "0" * 64)


@pytest.mark.parametrize("name", ["files.img", "pages-1.img"])
def test_a_byte_written_later_shows(folder, name):
    found, _ = stores.seal(folder, stores.stamps(folder))
    with open(folder / name, "r+b") as file:
        file.write(b"!")
    with pytest.raises(AgentError, match=name):
        manifest.compare(found, stores.survey(folder))


def test_the_same_byte_written_again_shows_in_the_bulk(folder):
    """The stamp proves that nothing was written, not only that nothing differs."""
    before = stores.stamps(folder)
    first = (folder / "pages-1.img").read_bytes()[:1]
    with open(folder / "pages-1.img", "r+b") as file:
        file.write(first)
    with pytest.raises(AgentError) as caught:
        stores.seal(folder, before)
    assert caught.value.code is Code.IMAGE_DAMAGED


def test_this_kernels_stamps_are_fine_and_the_flag_overrides_it(store):
    assert not store.hash_bulk
    other = Store(store.root, hash_bulk=True)
    assert other.hash_bulk
    other.close()
    assert not list(store.root.glob(".stamp*"))


async def test_hashes_go_by_chunks(store, folder):
    chunks = await store.hash([f"{folder}/pages-1.img"])
    raw = (folder / "pages-1.img").read_bytes()
    cut = manifest.CHUNK_BYTES
    assert chunks == {"pages-1.img": [hashlib.sha256(part).digest() for part in (raw[:cut], raw[cut:])]}
    assert await store.survey_aside(folder) == stores.survey(folder)


def test_a_root_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AgentError) as caught:
        Store(tmp_path / "file" / "images")
    assert caught.value.code is Code.NO_SPACE
