"""Images read again: what is damaged, half, another machine's or in the way is refused, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from checkpoint.archive import reader
from checkpoint.core import leases
from checkpoint.core.errors import Code
from checkpoint.core.squeeze import Mode
from tests.harness.archived import HERE, get, put, refused


async def test_without_ready_nothing_is_read(local, images, tmp_path):
    await put(local, images)
    raw = await local.get("migrations/i/ready")
    assert raw is not None
    await local.delete("migrations/i/ready")
    await refused(Code.IMAGE_MISSING, get(local, tmp_path / "x"), "not complete")
    reading = asyncio.create_task(get(local, tmp_path / "x", wait=30))
    async with asyncio.timeout(10):
        while not any(leases.LEASE in one.path for one in await local.below("migrations/i")):  # noqa: ASYNC110 - an archive tells nobody
            await asyncio.sleep(0.01)
    await local.put("migrations/i/ready", raw)
    assert (await reading).image == "i"


ALTERED = {
    "missing": (lambda root: (root / "data" / "small").unlink(), "missing"),
    "extra": (lambda root: (root / "data" / "file-2").write_bytes(b"x"), "added"),
    "short": (lambda root: os.truncate(root / "data" / "file-1", 4096), "cut short"),
    "long": (lambda root: lengthen(root / "data" / "small"), "longer"),
    "altered": (lambda root: flip(root / "data" / "file-1", 3000), "changed"),
    "swapped": (lambda root: swap(root / "data" / "file-1", root / "data" / "small"), "cut short|longer"),
    "another manifest": (lambda root: flip(root / "manifest", 60), "not the one"),
    "no manifest": (lambda root: (root / "manifest").unlink(), "missing"),
}


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def swap(one: Path, other: Path) -> None:
    ours, theirs = one.read_bytes(), other.read_bytes()
    one.write_bytes(theirs)
    other.write_bytes(ours)


@pytest.mark.parametrize("what", list(ALTERED))
async def test_an_altered_image_is_refused_and_leaves_nothing(local, images, tmp_path, what):
    await put(local, images, mode=Mode.OFF)
    alter, words = ALTERED[what]
    alter(tmp_path / "archive" / "migrations" / "i")
    await refused(Code.IMAGE_DAMAGED, get(local, tmp_path / "x"), words)
    assert not (tmp_path / "x").exists()


async def test_an_object_of_another_image_is_refused(local, images, tmp_path):
    await put(local, images, "i", mode=Mode.OFF)
    await put(local, images, "j", mode=Mode.OFF)
    root = tmp_path / "archive" / "migrations"
    (root / "i" / "data" / "file-1").write_bytes((root / "j" / "data" / "file-1").read_bytes())
    await refused(Code.IMAGE_DAMAGED, get(local, tmp_path / "x"), "changed")


async def test_a_changed_marker_is_refused(local, images, tmp_path):
    await put(local, images)
    raw = await local.get("migrations/i/ready")
    assert raw is not None
    for changed, code in (
        (raw.replace(b'"ttl_seconds":0.0', b'"ttl_seconds":9.0'), Code.WRONG_KEY),
        (raw.replace(b'"version":1', b'"version":7'), Code.IMAGE_VERSION),
        (raw[:-5], Code.IMAGE_DAMAGED),
    ):
        assert changed != raw
        await local.put("migrations/i/ready", changed)
        await refused(code, get(local, tmp_path / "x"))


async def test_another_machines_image_is_refused_before_a_byte_is_fetched(local, images, tmp_path):
    await put(local, images)
    await refused(Code.OTHER_MACHINE, get(local, tmp_path / "x", here=msgspec.structs.replace(HERE, cpu_features=[])))
    await refused(
        Code.OTHER_MACHINE, get(local, tmp_path / "x", here=msgspec.structs.replace(HERE, criu_version="4.1"))
    )
    await refused(
        Code.OTHER_MACHINE, get(local, tmp_path / "x", here=msgspec.structs.replace(HERE, architecture="arm"))
    )


async def test_a_folder_that_is_there_is_not_written_into(local, images, tmp_path):
    await put(local, images)
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError):
        await get(local, tmp_path / "x")


async def test_a_full_disk_is_told_before_or_when_it_is_and_nothing_is_left_there(local, images, tmp_path, monkeypatch):
    await put(local, images)
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", full], check=True)
    try:
        await refused(Code.NO_SPACE, get(local, full / "x"), "has room for 1048576")
        monkeypatch.setattr(reader, "_require_room", lambda *_: None)  # others filled it later
        await refused(Code.NO_SPACE, get(local, full / "x"), "cannot be written here: No space left")
        assert list(full.iterdir()) == []
    finally:
        subprocess.run(["umount", full], check=True)
