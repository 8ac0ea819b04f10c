"""Reads an image out of an archive into a folder: nothing of it may run before the last byte of it is proved."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from checkpoint.archive import keys
from checkpoint.archive.keys import Secret
from checkpoint.archive.lease import lease
from checkpoint.archive.objects import Objects
from checkpoint.archive.sealing import Opener
from checkpoint.core import leases, stored
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Machine, Manifest, Ready, StoredFile
from checkpoint.images import store

_LOOK_SECONDS = 0.5
"""An object store tells nobody that something was written: it is looked at."""


async def read(
    objects: Objects, image: str, kek: Secret, folder: Path, here: Machine, *, wait_seconds: float,
    deadline_seconds: float,
) -> Manifest:  # fmt: skip
    """Fetch an image into `folder`, which is made, 0700. Raises AgentError; then the folder is gone again.

    IMAGE_MISSING where it is not there or not complete, IMAGE_DAMAGED, IMAGE_VERSION, WRONG_KEY, OTHER_MACHINE,
    NO_SPACE, DEADLINE, and what `Objects` raises.
    """
    stored.require_name(image)
    try:
        async with asyncio.timeout(deadline_seconds), lease(objects, image, deadline_seconds):
            return await _read(objects, image, kek, folder, here, wait_seconds)
    except TimeoutError as error:
        raise AgentError(Code.DEADLINE, f"the image {image} was not read in {deadline_seconds:g} s") from error


async def read_manifest(objects: Objects, image: str, kek: Secret) -> Manifest:
    """The manifest alone, proved, and the archive's objects held against it. Raises like `read`."""
    stored.require_name(image)
    async with _opened(objects, image, kek, 0.0) as (_, manifest):
        return manifest


async def _read(
    objects: Objects, image: str, kek: Secret, folder: Path, here: Machine, wait_seconds: float
) -> Manifest:
    async with _opened(objects, image, kek, wait_seconds) as (key, manifest):
        stored.check_machine(manifest.machine, here)
        _require_room(folder.parent, manifest.image_bytes)
        _make(folder)
        try:
            with ThreadPoolExecutor(1, "open") as opening, ThreadPoolExecutor(1, "hash") as hashing:
                for one in manifest.objects:
                    files = [file for file in manifest.files if file.object == one.name]
                    await _fetch(objects, image, one.name, key, _Sink(folder, files, hashing), opening)
            stored.check_folder(manifest, store.listing(folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return manifest


@asynccontextmanager
async def _opened(
    objects: Objects, image: str, kek: Secret, wait_seconds: float
) -> AsyncIterator[tuple[Secret, Manifest]]:
    """The image's key, zeroed at the end, and its manifest."""
    ready = await _await_ready(objects, image, wait_seconds)
    if ready.key != keys.key_id(kek):
        message = f"the image {image} was sealed with the key {ready.key}; this key is {keys.key_id(kek)}"
        raise AgentError(Code.WRONG_KEY, message)
    with keys.unwrap(kek, ready.wrapped_key, ready.bound()) as key:
        manifest = await _manifest(objects, image, key, ready)
        base = f"{leases.folder(image)}/{leases.DATA}"
        found = {one.path.removeprefix(base): one.size for one in await objects.below(base.rstrip("/"))}
        stored.check_objects(manifest, found)
        yield key, manifest


async def _await_ready(objects: Objects, image: str, wait_seconds: float) -> Ready:
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_seconds
    while (raw := await objects.get(f"{leases.folder(image)}/{leases.READY}")) is None:
        if loop.time() >= end:
            raise AgentError(Code.IMAGE_MISSING, f"there is no image {image}, or it is not complete")
        await asyncio.sleep(_LOOK_SECONDS)
    return stored.decode_ready(raw, image)


async def _manifest(objects: Objects, image: str, key: Secret, ready: Ready) -> Manifest:
    raw = await objects.get(f"{leases.folder(image)}/{leases.MANIFEST}")
    if raw is None or len(raw) != ready.manifest_bytes or stored.digest(raw) != ready.manifest_sha256:
        raise AgentError(
            Code.IMAGE_DAMAGED, f"the manifest of image {image} is missing, or not the one it was made with"
        )
    opener = Opener(key, image, leases.MANIFEST)
    plain = b"".join(opener.feed(raw))
    opener.finish()
    return stored.decode_manifest(plain, image)


async def _fetch(
    objects: Objects, image: str, name: str, key: Secret, sink: _Sink, opening: ThreadPoolExecutor
) -> None:
    opener = Opener(key, image, name)
    try:
        async for piece in objects.get_stream(f"{leases.folder(image)}/{leases.DATA}{name}"):
            await asyncio.wrap_future(opening.submit(_take, opener, sink, piece))
        opener.finish()
        sink.finish()
    finally:
        opening.submit(sink.close).result()


def _take(opener: Opener, sink: _Sink, piece: bytes) -> None:
    for chunk in opener.feed(piece):
        sink.write(chunk)


class _Sink:
    """Distributes an object's bytes to the files that are in it, new ones in a folder that nobody else can enter.

    SHA-256, the slow part, has a thread of its own.
    """

    def __init__(self, folder: Path, files: list[StoredFile], hashing: ThreadPoolExecutor) -> None:
        self._folder, self._files, self._hashing = folder, files[::-1], hashing
        self._fd = -1
        self._left = 0
        self._digest = hashlib.sha256()
        self._end_full_files()

    def write(self, chunk: bytes) -> None:
        """Raises AgentError IMAGE_DAMAGED or NO_SPACE."""
        rest = memoryview(chunk)
        while rest:
            if self._fd < 0:
                raise AgentError(Code.IMAGE_DAMAGED, "an object has more bytes than its files")
            part = rest[: self._left]
            hashed = self._hashing.submit(self._digest.update, part)
            try:
                _write(self._fd, part)
            finally:
                hashed.result()
            self._left -= len(part)
            rest = rest[len(part) :]
            self._end_full_files()

    def finish(self) -> None:
        if self._fd >= 0:
            raise AgentError(Code.IMAGE_DAMAGED, f"the file {self._files[-1].name} is cut short")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _end_full_files(self) -> None:
        """End the file that is full, check it, and open the next that has a byte."""
        while self._left == 0 and (self._fd >= 0 or self._files):
            if self._fd >= 0:
                self.close()
                done = self._files.pop()
                if self._digest.hexdigest() != done.sha256:
                    raise AgentError(Code.IMAGE_DAMAGED, f"the file {done.name} is not the one that was stored")
                continue
            self._open(self._files[-1])

    def _open(self, file: StoredFile) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._folder / file.name, flags, 0o600)
        self._left, self._digest = file.size, hashlib.sha256()


def _write(fd: int, part: memoryview) -> None:
    try:
        while part:
            part = part[os.write(fd, part) :]
    except OSError as error:
        code = Code.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else Code.INTERNAL
        raise AgentError(code, f"an image cannot be written here: {error.strerror}") from error


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700)


def _require_room(folder: Path, needed_bytes: int) -> None:
    found = os.statvfs(folder)
    if (free := found.f_bavail * found.f_frsize) < needed_bytes:
        raise AgentError(Code.NO_SPACE, f"the image has {needed_bytes} bytes, and {folder} has room for {free}")
