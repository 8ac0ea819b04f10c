"""Images through an object store, and damage to them: `python -m tests.bench.store [--size 512MiB] [--damages 1000]`.

The archive program writes an image to a real S3 server and reads it, as an agent has it do; beside it the same library
with plain bytes, and the server's own client. What it found is a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import obstore

from checkpoint.api import Archive, KeySource
from checkpoint.archive import archivist, keys, reader, writer
from checkpoint.archive.keys import Secret
from checkpoint.archive.objects import Objects
from checkpoint.archive.orders import Read, Write, WriteDone
from checkpoint.core import manifest as tags
from checkpoint.core.errors import AgentError
from checkpoint.core.stored import Machine, Manifest
from checkpoint.images import store as stores
from controller.core.units import parse_bytes
from tests.bench.image_figures import Damage, Store
from tests.harness.object_store import WEED, ObjectStore, object_store

HERE = Machine("4.2.1", "6.12", "x86_64", [])
PAGES = "pages-1.img"
_MIB = 1 << 20
_SECONDS = 300.0


def measure(size_bytes: int, damages: int) -> Store:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="midstream-bench-") as name:
        folder = Path(name)
        with object_store() as server:
            rates = _rates(folder, server, size_bytes)
        found = [asyncio.run(_stored(folder / "damaged", damages)), asyncio.run(_loose(folder / "loose", damages))]
    return Store(size_bytes, "SeaweedFS", *rates, damages=found)


def _rates(folder: Path, server: ObjectStore, size_bytes: int) -> tuple[float, float, float, float, float]:
    """Written, read; by the library alone; by the server's own client. Bytes a second."""
    images = folder / "images"
    images.mkdir()
    _fill(images / PAGES, size_bytes)
    keys.make(folder / "key")
    key, bucket = KeySource(file=str(folder / "key")), server.bucket()

    def timed(what: Callable[[], Any]) -> float:
        began = time.monotonic()
        what()
        return size_bytes / (time.monotonic() - began)

    order = Write(server.archive(), key, str(images), _draft("i"), 0.0, _SECONDS, "auto")
    write = timed(lambda: asyncio.run(archivist.carry_out(order, WriteDone)))
    wanted = Read(server.archive(), key, "i", str(folder / "again"), HERE, 0.0, _SECONDS)
    read = timed(lambda: asyncio.run(archivist.carry_out(wanted, Manifest)))
    plain_write = timed(lambda: obstore.put(bucket, "plain", images / PAGES))
    plain_read = timed(lambda: sum(len(piece) for piece in obstore.get(bucket, "plain").stream(min_chunk_size=_MIB)))
    argv = [str(WEED), "filer.copy", str(images / PAGES), f"{server.filer}/copied/"]
    client = timed(lambda: subprocess.run(argv, check=True, capture_output=True))
    return write, read, plain_write, plain_read, client


def _fill(path: Path, size_bytes: int) -> None:
    """As a workload's memory may be: a quarter of it zeros, the rest what no compressor makes smaller."""
    block = os.urandom(3 * _MIB) + bytes(_MIB)
    with path.open("wb") as file:
        for _ in range(size_bytes // len(block)):
            file.write(block)


def _draft(image: str) -> Manifest:
    return Manifest(1, image, "bench", ["bench"], 1.0, HERE, "", [], {}, "/log", 1, [], [], [])


async def _stored(folder: Path, cases: int) -> Damage:
    """In any object of a stored image: the marker, the manifest, the files."""
    kek, objects = Secret.fresh(), Objects(Archive(str(folder / "archive")), make=True)
    images = folder / "images"
    images.mkdir()
    for name, size in ((PAGES, 60_000), ("files.img", 3_000)):
        (images / name).write_bytes(os.urandom(size))
    await writer.write(objects, images, _draft("i"), kek, ttl_seconds=0.0, deadline_seconds=_SECONDS)
    detected, chance = 0, random.Random(1)
    for number in range(cases):
        with _damaged(folder / "archive", chance):
            again = folder / f"again-{number}"
            try:
                await reader.read(objects, "i", kek, again, HERE, wait_seconds=0.0, deadline_seconds=_SECONDS)
            except AgentError:
                detected += not again.exists()
    return Damage("a stored image", cases, detected)


async def _loose(folder: Path, cases: int) -> Damage:
    """In any file of a folder of images, as they are on a tmpfs."""
    key, store = os.urandom(tags.KEY_BYTES), stores.Store(folder)
    images = store.make("m").images
    for name, size in ((PAGES, tags.CHUNK_BYTES + 60_000), ("files.img", 3_000), ("core-1.img", 500)):
        (images / name).write_bytes(os.urandom(size))
    _, digest = await store.seal(images, key, stores.listing(images), {})
    detected, chance = 0, random.Random(2)
    for _ in range(cases):
        with _damaged(images, chance):
            try:
                tags.compare(stores.read(images, digest), await store.survey(images, key, stores.listing(images)))
            except AgentError:
                detected += 1
    store.close()
    return Damage("a folder of images", cases, detected)


@contextmanager
def _damaged(folder: Path, chance: random.Random) -> Iterator[None]:
    """One bit of one byte of all that lies there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in paths]
    [path] = chance.choices(paths, sizes)
    at, bit = chance.randrange(path.stat().st_size), 1 << chance.randrange(8)
    _flip(path, at, bit)
    try:
        yield
    finally:
        _flip(path, at, bit)


def _flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ bit]), at)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store")
    parser.add_argument("--size", type=parse_bytes, default=512 * _MIB)
    parser.add_argument("--damages", type=int, default=1000)
    flags = parser.parse_args()
    sys.stdout.buffer.write(msgspec.json.encode(measure(int(flags.size), flags.damages)) + b"\n")


if __name__ == "__main__":
    main()
