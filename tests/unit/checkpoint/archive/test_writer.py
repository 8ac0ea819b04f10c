"""Images written to a folder: whole, sealed and once. On S3: test_main."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.archive import reader, writer
from checkpoint.archive.objects import Objects
from checkpoint.core import leases
from checkpoint.core.errors import Code
from checkpoint.core.squeeze import Mode
from checkpoint.images import store
from tests.harness.archived import CONTENT, HERE, KEK, draft, get, put, refused


async def round_trip(objects: Objects, images: Path, tmp_path: Path, mode: Mode) -> writer.Written:
    written = await put(objects, images, mode=mode)
    manifest = await get(objects, tmp_path / "again")
    assert manifest == written.manifest
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == CONTENT
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "again").iterdir())
    return written


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_folder_keeps_an_image(local, images, tmp_path, mode):
    written = await round_trip(local, images, tmp_path, mode)
    assert written.manifest.image_bytes == sum(map(len, CONTENT.values())) == written.ready.image_bytes
    if mode is Mode.ON:
        assert written.ready.stored_bytes < written.ready.image_bytes
    assert written.compression.mode == mode.value


async def test_nothing_of_the_image_can_be_read_in_the_archive(local, images, tmp_path):
    await put(local, images, mode=Mode.OFF)
    kept = [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]
    raw = b"".join(path.read_bytes() for path in kept)
    for clear in (b"hidden", b"10.0.0.1", b"pppp", b"files.img", CONTENT["files.img"][:16], bytes(32), KEK.raw):
        assert clear not in raw
    assert b'"workload":"redis"' in raw


async def test_an_image_is_written_once(local, images):
    await put(local, images)
    await refused(Code.IMAGE_EXISTS, put(local, images))


async def test_ready_is_written_last(local, images, monkeypatch):
    seen: list[str] = []
    original = Objects.put

    async def watched(self, path, data, *, new=False):
        seen.extend(one.path for one in await self.below("migrations") if leases.LEASE not in one.path)
        seen.append(f"put {path}")
        await original(self, path, data, new=new)

    monkeypatch.setattr(Objects, "put", watched)
    await put(local, images)
    at = seen.index("put migrations/i/ready")
    assert "migrations/i/manifest" in seen[:at]
    assert "migrations/i/data/file-1" in seen[:at]
    assert "migrations/i/ready" not in seen[:at]


async def test_a_link_among_the_images_is_refused(local, images):
    (images / "link.img").symlink_to("/etc/shadow")
    await refused(Code.IMAGE_DAMAGED, put(local, images), "no file")


async def test_a_file_that_changes_meanwhile_is_noticed(local, images, monkeypatch):
    original = store.listing
    calls = 0

    def growing(folder):
        nonlocal calls
        calls += 1
        if calls == 2:
            (folder / "late.img").write_bytes(b"x")
        return original(folder)

    monkeypatch.setattr(store, "listing", growing)
    await refused(Code.IMAGE_DAMAGED, put(local, images), "changed while")
    assert await local.get("migrations/i/ready") is None


async def test_past_the_deadline_there_is_no_image(local, images, tmp_path):
    late = writer.write(local, images, draft("i"), KEK, ttl_seconds=0, deadline_seconds=0)
    await refused(Code.DEADLINE, late)
    assert await local.get("migrations/i/ready") is None
    await put(local, images, "j")
    await refused(Code.DEADLINE, reader.read(local, "j", KEK, tmp_path / "x", HERE, wait_seconds=0, deadline_seconds=0))
