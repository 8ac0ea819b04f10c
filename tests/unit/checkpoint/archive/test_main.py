"""The archive program as it is run, its archive on a real S3 server."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from checkpoint import api
from checkpoint.api import ArchiveAnswer, KeySource, StoredImage
from checkpoint.archive import keys
from checkpoint.archive.orders import Read, Try, Write, WriteDone
from checkpoint.core import stored
from checkpoint.core.stored import Machine, Manifest
from tests.harness.cutter import Cutter, Then, cutter
from tests.harness.object_store import SECRET, ObjectStore, object_store
from tests.harness.other_clock import OtherClock

TOP = Path(__file__).parents[4]
HERE = Machine("4.2.1", "6.12", "x86_64", ["avx"])
DRAFT = Manifest(1, "i", "redis", ["redis-server"], 1.0, HERE, "", [], {}, "/log", 1, [], [], [])
CONTENT = {"files.img": b"f" * 1000, "pages-1.img": os.urandom(20 << 20) + bytes(stored.SMALL_BYTES)}
"""The pages make three parts of a multipart upload."""


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as started:
        yield started


@pytest.fixture
def key(tmp_path) -> KeySource:
    keys.make(tmp_path / "key")
    return KeySource(file=str(tmp_path / "key"))


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


def said(order: Any, env: dict[str, str] | None = None) -> ArchiveAnswer:
    raw = order if isinstance(order, bytes) else msgspec.json.encode(order)
    with start(env) as process:
        out, err = process.communicate_open(raw)
    assert not err, err.decode()
    assert SECRET.encode() not in out
    return msgspec.json.decode(out, type=ArchiveAnswer)


class Program(subprocess.Popen[bytes]):
    def communicate_open(self, raw: bytes) -> tuple[bytes, bytes]:
        """Says the order, and keeps the pipe open until the answer has come."""
        assert self.stdin is not None
        assert self.stdout is not None
        assert self.stderr is not None
        self.stdin.write(raw + b"\n")
        self.stdin.flush()
        return self.stdout.readline(), self.stderr.read()


def start(env: dict[str, str] | None = None) -> Program:
    pipe = subprocess.PIPE
    return Program([sys.executable, "-m", "checkpoint.archive"], cwd=TOP, stdin=pipe, stdout=pipe, stderr=pipe, env=env)


def done(order: Any, kind: Any, env: dict[str, str] | None = None) -> Any:
    answer = said(order, env)
    assert answer.error is None, answer.error
    return msgspec.json.decode(answer.answer, type=kind)


def refused(order: Any) -> str:
    answer = said(order)
    assert answer.error is not None
    return answer.error.code


def write(archive: api.Archive, key: KeySource, folder: Path, image: str = "i", deadline: float = 60.0) -> Write:
    return Write(archive, key, str(folder), msgspec.structs.replace(DRAFT, image=image), 0.0, deadline, "off")


def through(server: ObjectStore, way: Cutter) -> api.Archive:
    return server.archive(aws_endpoint_url=f"http://127.0.0.1:{way.port}")


def test_an_image_goes_to_a_real_s3_server_and_comes_back(server, key, images, tmp_path):
    archive = server.archive()
    order = write(archive, key, images)
    written = done(order, WriteDone)
    assert written.image_bytes == sum(map(len, CONTENT.values()))
    assert refused(order) == "image-exists"
    (listed,) = done(api.ListImages(archive), list[StoredImage])
    assert (listed.image, listed.state, listed.workload, listed.in_use) == ("i", "ready", "redis", False)
    assert done(api.ShowImage(archive, key, "i"), Manifest).files
    again = Read(archive, key, "i", str(tmp_path / "again"), HERE, 0.0, 60.0)
    assert done(again, Manifest).image_bytes == written.image_bytes
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == CONTENT
    done(api.DeleteImage(archive, "i"), None)
    assert done(api.ListImages(archive), list[StoredImage]) == []


async def test_a_connection_that_is_cut_anywhere_costs_a_part_and_no_more(server, key, images, tmp_path):
    total = sum(map(len, CONTENT.values()))

    async def cut(at: int) -> None:
        image = f"cut-{at}"
        async with cutter(server.host, server.port, after_bytes=at, then=Then.WELL) as way:
            await asyncio.to_thread(done, write(through(server, way), key, images, image), WriteDone)
            assert way.cuts == 1
        read = Read(server.archive(), key, image, str(tmp_path / image), HERE, 0.0, 60.0)
        assert (await asyncio.to_thread(done, read, Manifest)).image_bytes == total
        await asyncio.to_thread(done, api.DeleteImage(server.archive(), image), None)

    chance = random.Random(4)
    await asyncio.gather(*(cut(chance.randrange(total)) for _ in range(2)))


async def test_an_archive_that_goes_down_or_is_slow_leaves_no_image(server, key, images, tmp_path):
    """Down at once, in the first part, in the last ones; or so slow that the deadline passes."""

    async def fail(image: str, after_bytes: int, pause_seconds: float) -> None:
        async with cutter(
            server.host, server.port, after_bytes=after_bytes, then=Then.DOWN, pause_seconds=pause_seconds
        ) as way:
            code = await asyncio.to_thread(refused, write(through(server, way), key, images, image, 2.0))
        assert code == "deadline"
        read = Read(server.archive(), key, image, str(tmp_path / image), HERE, 0.0, 60.0)
        assert await asyncio.to_thread(refused, read) == "image-missing"

    await asyncio.gather(fail("a", 0, 0), fail("b", 3 << 20, 0), fail("c", 20 << 20, 0), fail("d", 1 << 60, 0.1))
    listed = await asyncio.to_thread(done, api.ListImages(server.archive()), list[StoredImage])
    assert {one.state for one in listed} <= {"incomplete"}
    for one in listed:
        await asyncio.to_thread(done, api.DeleteImage(server.archive(), one.image, force=True), None)


async def test_an_archive_that_goes_down_or_is_slow_while_it_is_read_leaves_nothing_here(server, key, images, tmp_path):
    """Down at once, before the data or within it; or so slow that the deadline passes. When it is well again, so is the
    image. A connection that is cut once is made again, and goes on where it was."""
    await asyncio.to_thread(done, write(server.archive(), key, images), WriteDone)

    async def read(name: str, after_bytes: int, then: Then = Then.DOWN, pause_seconds: float = 0.0) -> str:
        way = cutter(server.host, server.port, after_bytes=after_bytes, then=then, pause_seconds=pause_seconds,
                     counts_answers=True)  # fmt: skip
        async with way as through_it:
            seconds = 60.0 if then is Then.WELL else 5.0
            order = Read(through(server, through_it), key, "i", str(tmp_path / name), HERE, 0.0, seconds)
            answer = await asyncio.to_thread(said, order)
        assert pause_seconds or through_it.cuts == 1
        return answer.error.code if answer.error else "whole"

    *down, slow = await asyncio.gather(
        read("a", 1), read("b", 3000), read("c", 2 << 20), read("d", 1 << 60, pause_seconds=0.1)
    )  # fmt: skip
    assert set(down) <= {"deadline", "archive-unreachable"}, "whichever comes first"
    assert slow == "deadline"
    assert [path.name for path in tmp_path.iterdir() if len(path.name) == 1] == []
    assert await read("e", 10 << 20, Then.WELL) == "whole"
    assert {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()} == CONTENT
    await asyncio.to_thread(done, api.DeleteImage(server.archive(), "i", force=True), None)


def test_machines_whose_clocks_differ_share_an_archive_and_its_own_clock_decides(server, key, images, tmp_path):
    """By minutes: an image that is kept for one is not collected by whoever thinks that it is long over, and is read by
    whoever has another clock than its writer. By a day: an object store refuses that, and it is said what is wrong."""
    clock, minutes = OtherClock(tmp_path), 10 * 60
    for ahead in (minutes, -minutes):
        env, other = clock.environment(ahead), clock.environment(-ahead)
        order = msgspec.structs.replace(write(server.archive(), key, images, f"i{ahead}"), ttl_seconds=60.0)
        done(order, WriteDone, env)
        assert done(api.CollectImages(server.archive()), list[str], other) == []
        done(Read(server.archive(), key, f"i{ahead}", str(tmp_path / f"{ahead}"), HERE, 0.0, 60.0), Manifest, other)
        done(api.DeleteImage(server.archive(), f"i{ahead}"), type(None), env)
    for ahead in (24 * 3600, -24 * 3600):
        for asked in (write(server.archive(), key, images), api.ListImages(server.archive())):
            error = said(asked, clock.environment(ahead)).error
            assert error is not None
            assert (error.code, "This machine's clock" in error.hint) == ("archive-refused", True), error


def test_wrong_credentials_are_refused(server):
    assert refused(api.ListImages(server.archive(aws_secret_access_key="wrong"))) == "archive-refused"


def test_an_empty_archive_has_nothing_to_collect(tmp_path):
    (tmp_path / "archive").mkdir()
    assert done(api.CollectImages(api.Archive(str(tmp_path / "archive"))), list[str]) == []


def test_who_only_looks_makes_no_folder(tmp_path):
    """A name that was mistyped is told, not made true."""
    nowhere = api.Archive(str(tmp_path / "nowhere"))
    assert refused(api.ListImages(nowhere)) == "archive-refused"
    assert refused(api.CollectImages(nowhere)) == "archive-refused"
    assert not (tmp_path / "nowhere").exists()


def test_whether_an_image_could_be_stored_is_found_out_before_there_is_one(tmp_path):
    archive, key = api.Archive(str(tmp_path / "archive")), api.KeySource(file=str(tmp_path / "key"))
    assert refused(Try(archive, key, "i", "alone")) == "key-unreadable"
    done(api.MakeKey(key.file), str)
    assert refused(Try(api.Archive("/dev/null/archive"), key, "i", "alone")) == "archive-refused"
    done(Try(archive, key, "i", "alone"), type(None))
    assert [path for path in Path(archive.url).rglob("*") if path.is_file()] == []
    done(Try(archive, key, "i", "writer"), type(None))
    done(Try(archive, key, "i", "reader"), type(None))
    assert done(api.CollectImages(archive), list[str]) == []
    done(api.DeleteImage(archive, "i", force=True), type(None))
    assert refused(Try(archive, key, "i", "reader")) == "image-missing"


def test_an_archive_that_is_down_is_not_waited_for(tmp_path, key):
    options = {"aws_endpoint_url": "http://127.0.0.1:9", "aws_access_key_id": "x", "aws_secret_access_key": "x",
               "aws_region": "x"}  # fmt: skip
    began = time.monotonic()
    assert refused(Try(api.Archive("s3://bucket/there", options), key, "i", "alone")) == "archive-unreachable"
    assert time.monotonic() - began < 30


def test_a_key_is_made(tmp_path):
    assert len(done(api.MakeKey(str(tmp_path / "key")), str)) == 16
    assert refused(api.MakeKey(str(tmp_path / "key"))) == "key-unreadable"


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"order": "list"}', b"\xff"])
def test_what_is_no_order_is_refused(raw):
    assert refused(raw) == "bad-request"


def test_it_ends_when_whoever_gave_the_order_is_gone(tmp_path, key):
    order = Read(api.Archive(str(tmp_path)), key, "none", str(tmp_path / "x"), HERE, 60.0, 60.0)
    with start() as process:
        out, _ = process.communicate(msgspec.json.encode(order) + b"\n", timeout=30)
    answer = msgspec.json.decode(out, type=ArchiveAnswer)
    assert answer.error is not None
    assert answer.error.message.startswith("broken off")
    assert not list(tmp_path.rglob("lease-*"))
