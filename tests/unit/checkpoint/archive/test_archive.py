"""Images written to a folder and read again; what is damaged, half or in use is left alone. On S3: test_main."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from checkpoint.api import Archive
from checkpoint.archive import lease, lifetime, reader, writer
from checkpoint.archive.keys import Secret
from checkpoint.archive.objects import Objects
from checkpoint.core import leases, stored
from checkpoint.core.container import CHUNK_BYTES
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.squeeze import Mode
from checkpoint.core.stored import Machine, Manifest
from checkpoint.images import store

KEK = Secret(bytearray(range(32)))
HERE = Machine("4.2.1", "6.12", "x86_64", ["avx"])
CONTENT = {
    "pstree.img": b"p" * 100, "empty.img": b"", "files.img": os.urandom(5000), "zeros.img": bytes(CHUNK_BYTES + 5),
    "pages-1.img": os.urandom(stored.SMALL_BYTES) + bytes(3 * CHUNK_BYTES + 77), "zz-empty.img": b"",
}  # fmt: skip


def draft(image: str) -> Manifest:
    return Manifest(1, image, "redis", ["redis-server", "--requirepass", "hidden"], 1.0, HERE, "", ["10.0.0.1"], {},
                    "/log", 1, [], [], [])  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def local(tmp_path: Path) -> Objects:
    return Objects(Archive(str(tmp_path / "archive")))


async def put(objects: Objects, images: Path, image: str = "i", ttl: float = 0.0, **options) -> writer.Written:
    return await writer.write(objects, images, draft(image), KEK, ttl_seconds=ttl, deadline_seconds=60, **options)


async def get(
    objects: Objects, folder: Path, image: str = "i", kek: Secret = KEK, here: Machine = HERE, wait: float = 0
):
    return await reader.read(objects, image, kek, folder, here, wait_seconds=wait, deadline_seconds=60)


async def refused(code: Code, call, words: str | None = None) -> None:
    with pytest.raises(AgentError, match=words) as caught:
        await call
    assert caught.value.code is code, caught.value


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


async def test_an_archive_that_is_gone_is_told(tmp_path, images):
    gone = Archive("s3://images", {"aws_endpoint_url": "http://127.0.0.1:9", "aws_access_key_id": "a",
                   "aws_secret_access_key": "b", "aws_region": "us-east-1"})  # fmt: skip
    await refused(Code.ARCHIVE_UNREACHABLE, put(Objects(gone, retry_seconds=0.3), images))


@pytest.mark.parametrize("url", ["relative/folder", "ftp://host/x", "file://host/x", "s3://"])
async def test_no_archive_is_told(url):
    with pytest.raises(AgentError) as caught:
        Objects(Archive(url))
    assert caught.value.code is Code.ARCHIVE_REFUSED


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


async def test_a_link_among_the_images_is_refused(local, images):
    (images / "link.img").symlink_to("/etc/shadow")
    await refused(Code.IMAGE_DAMAGED, put(local, images), "no file")


async def test_a_folder_that_is_there_is_not_written_into(local, images, tmp_path):
    await put(local, images)
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError):
        await get(local, tmp_path / "x")


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


async def test_the_collection_takes_what_is_over_and_nothing_else(local, images, monkeypatch):
    for name, ttl in (("old", 1.0), ("used", 1.0), ("kept", 0.0), ("young", 1e6)):
        await put(local, images, name, ttl)
    await local.put("migrations/half/data/small", b"x")
    await local.put("migrations/later/ready", b'{"version": 2}')
    now = await lease.archive_clock(local)

    async def in_an_hour(_: Objects) -> float:
        return now + 3600

    monkeypatch.setattr(lifetime, "archive_clock", in_an_hour)
    async with lease.lease(local, "used", 7200):
        assert await lifetime.collect(local, dry_run=True) == ["half", "old"]
        assert await lifetime.collect(local) == ["half", "old"]
    states = {one.image: one.state for one in await lifetime.catalogue(local)}
    assert states == {"kept": "ready", "later": "unreadable", "used": "ready", "young": "ready"}
    assert await lifetime.collect(local) == ["used"]


async def test_a_reader_that_comes_between_the_two_looks_keeps_its_image(local, images, tmp_path, monkeypatch):
    await put(local, images)
    original = Objects.delete
    entered = lease.lease(local, "i", 60)

    async def a_reader_came_first(self, *paths):
        if paths == ("migrations/i/ready",):
            await entered.__aenter__()
        await original(self, *paths)

    monkeypatch.setattr(Objects, "delete", a_reader_came_first)
    await refused(Code.IMAGE_IN_USE, lifetime.delete(local, "i"))
    await entered.__aexit__(None, None, None)
    assert (await get(local, tmp_path / "x")).image == "i"


async def test_a_lease_that_cannot_be_given_back_spoils_nothing(local, images, tmp_path, monkeypatch):
    await put(local, images)

    async def down(self, *paths):
        raise AgentError(Code.ARCHIVE_UNREACHABLE, "down")

    monkeypatch.setattr(Objects, "delete", down)
    assert (await get(local, tmp_path / "x")).image == "i"


async def test_delete_says_what_is_not_there_and_does_as_it_is_forced(local, images):
    await refused(Code.IMAGE_MISSING, lifetime.delete(local, "i"))
    await put(local, images)
    async with lease.lease(local, "i", 60):
        await lifetime.delete(local, "i", force=True)
    assert await lifetime.catalogue(local) == []


async def test_a_full_disk_is_told(local, images, tmp_path):
    huge = stored.StoredFile("pages-1.img", 1 << 60, "0" * 64, "file-1")
    assert huge.size > os.statvfs(tmp_path).f_bavail
    with pytest.raises(AgentError) as caught:
        reader._require_room(tmp_path, huge.size)
    assert caught.value.code is Code.NO_SPACE
