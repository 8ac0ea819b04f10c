"""Pages tagged while they are written: what comes of it is what comes of reading the whole file afterwards."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from checkpoint.core import manifest
from checkpoint.images import store as stores
from checkpoint.images.growing import Growing
from checkpoint.images.store import Store

KEY = bytes(range(32))
MIB = manifest.CHUNK_BYTES


@pytest.fixture
def store():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        made = Store(Path(name) / "images")
        yield made
        made.close()


def until_tagged(growing: Growing, name: str, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(growing.tags.get(name, ())) < count:
        assert time.monotonic() < deadline, f"{name} is not tagged"
        time.sleep(0.001)


@pytest.mark.parametrize("more", [0, 1, MIB, 2 * MIB + 5])
async def test_what_was_tagged_meanwhile_and_the_rest_make_one_proof(store, more):
    folder = store.make("m").images
    growing = Growing(folder, KEY)
    (folder / "files.img").write_bytes(b"no pages")
    with (folder / "pages-1.img").open("wb", buffering=0) as file:
        file.write(os.urandom(MIB))
        until_tagged(growing, "pages-1.img", 1)
        file.write(os.urandom(MIB + 7))
        until_tagged(growing, "pages-1.img", 2)
        tags = growing.end()
        file.write(os.urandom(more))
    assert {name: len(some) for name, some in tags.items()} == {"pages-1.img": 2}
    sizes = stores.listing(folder)
    found = await store.prove(folder, KEY, sizes, ["pages-1.img"], tags)
    assert found["pages-1.img"] == (await store.survey(folder, KEY, sizes)).files["pages-1.img"]


def test_a_folder_that_is_emptied_or_goes_is_no_error(store):
    folder = store.make("m").images
    growing = Growing(folder, KEY)
    for name in ("pages-1.img", "pages-2.img"):
        (folder / name).write_bytes(bytes(MIB))
    until_tagged(growing, "pages-2.img", 1)
    os.truncate(folder / "pages-2.img", 5)
    store.remove("m")
    time.sleep(0.02)  # it looks a few times meanwhile; nothing depends on how often
    assert [len(some) for some in growing.end().values()] == [1, 1]
    assert growing.end() == growing.tags
