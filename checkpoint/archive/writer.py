"""Writes an image into an archive: read, hashed, compressed, sealed and sent chunk by chunk; `ready` comes last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from checkpoint.api import Compression
from checkpoint.archive import keys
from checkpoint.archive.keys import Secret
from checkpoint.archive.lease import lease
from checkpoint.archive.objects import Objects
from checkpoint.archive.sealing import Sealer
from checkpoint.archive.source import Source
from checkpoint.core import container, leases, stored
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.squeeze import Mode, Squeeze
from checkpoint.core.stored import Manifest, Ready, StoredFile, StoredObject
from checkpoint.images import store


@dataclass(frozen=True)
class Written:
    ready: Ready
    manifest: Manifest
    compression: Compression


async def write(
    objects: Objects, folder: Path, draft: Manifest, kek: Secret, *, ttl_seconds: float, deadline_seconds: float,
    mode: Mode = Mode.AUTO,
) -> Written:  # fmt: skip
    """Store a folder of images as the image `draft.image`; files, objects and key of the draft are filled in.

    Raises AgentError IMAGE_EXISTS, DEADLINE, IMAGE_DAMAGED (a file that changes meanwhile), and what `Objects` raises.
    Then there is no `ready`, and the next collection takes away what there is.
    """
    writer = _Writer(objects, folder, draft, kek, Squeeze(mode))
    try:
        async with asyncio.timeout(deadline_seconds):
            return await writer.write(ttl_seconds, deadline_seconds)
    except TimeoutError as error:
        raise AgentError(Code.DEADLINE, f"the image {draft.image} was not stored in {deadline_seconds:g} s") from error
    finally:
        writer.close()


class _Writer:
    def __init__(self, objects: Objects, folder: Path, draft: Manifest, kek: Secret, squeeze: Squeeze) -> None:
        self._objects, self._folder, self._draft, self._kek, self._squeeze = objects, folder, draft, kek, squeeze
        self._at = leases.folder(draft.image)
        self._key = Secret.fresh()
        self._sealing = ThreadPoolExecutor(1, "seal")
        self._hashing = ThreadPoolExecutor(1, "hash")

    def close(self) -> None:
        self._sealing.shutdown(cancel_futures=True)
        self._hashing.shutdown(cancel_futures=True)
        self._key.zero()

    async def write(self, ttl_seconds: float, deadline_seconds: float) -> Written:
        found = [one.path.rsplit("/", 1)[-1] for one in await self._objects.below(self._at)]
        if any(leases.lease_seconds(name) is None for name in found):  # somebody may be waiting for it to appear
            raise AgentError(Code.IMAGE_EXISTS, f"there is an image {self._draft.image} already")
        async with lease(self._objects, self._draft.image, deadline_seconds):
            manifest = await self._write_files()
            raw = self._seal_whole(stored.encode(manifest))
            await self._objects.put(f"{self._at}/{leases.MANIFEST}", raw, new=True)
            await self._objects.settle(self._at)
            ready = self._ready(manifest, raw, ttl_seconds)
            await self._objects.put(f"{self._at}/{leases.READY}", stored.encode(ready), new=True)
        report = msgspec.convert(self._squeeze.report(), Compression, from_attributes=True)
        return Written(ready, manifest, report)

    async def _write_files(self) -> Manifest:
        sizes = store.listing(self._folder)
        files: list[StoredFile] = []
        objects: list[StoredObject] = []
        for name, members in stored.place(sizes):
            source = Source(self._folder, {one: sizes[one] for one in members}, self._hashing)
            try:
                plain_bytes = sum(sizes[one] for one in members)
                objects.append(StoredObject(name, plain_bytes, await self._send(name, source, plain_bytes)))
            finally:
                # In the thread that reads: it may be at it still when this was cancelled.
                await asyncio.shield(asyncio.wrap_future(self._sealing.submit(source.close)))
            files += [StoredFile(one, sizes[one], source.digests[one], name) for one in members]
        if store.listing(self._folder) != sizes:
            raise AgentError(Code.IMAGE_DAMAGED, "the images changed while they were stored")
        return msgspec.structs.replace(self._draft, key=keys.key_id(self._kek), files=files, objects=objects)

    async def _send(self, name: str, source: Source, plain_bytes: int) -> int:
        """Send one object, a frame whenever the archive has room for it; gives its length there."""
        sealer = Sealer(self._key, self._draft.image, name, self._squeeze, time.monotonic)
        sent = 0

        async def frames() -> AsyncIterator[bytes | bytearray]:
            nonlocal sent
            frame: bytes | bytearray = sealer.header
            last = False
            while True:
                sent += len(frame)
                given = time.monotonic()
                yield frame
                self._squeeze.carried(len(frame), time.monotonic() - given)
                if last:
                    return
                frame, last = await asyncio.wrap_future(self._sealing.submit(_next_frame, source, sealer))

        await self._objects.put_stream(f"{self._at}/{leases.DATA}{name}", frames(), plain_bytes)
        return sent

    def _seal_whole(self, raw: bytes) -> bytes:
        sealer = Sealer(self._key, self._draft.image, leases.MANIFEST, Squeeze(Mode.ON), time.monotonic)
        step = container.CHUNK_BYTES
        ends = range(step, len(raw) + step, step)
        return sealer.header + b"".join(sealer.seal(raw[end - step : end], last=end >= len(raw)) for end in ends)

    def _ready(self, manifest: Manifest, raw: bytes, ttl_seconds: float) -> Ready:
        ready = Ready(
            stored.VERSION, manifest.image, manifest.workload, manifest.created_seconds, ttl_seconds,
            manifest.image_bytes, sum(one.stored_bytes for one in manifest.objects) + len(raw), len(raw),
            stored.digest(raw), manifest.key, "",
        )  # fmt: skip
        return msgspec.structs.replace(ready, wrapped_key=keys.wrap(self._kek, self._key, ready.bound()))


def _next_frame(source: Source, sealer: Sealer) -> tuple[bytearray, bool]:
    chunk, last = source.chunk()
    return sealer.seal(chunk, last=last), last
