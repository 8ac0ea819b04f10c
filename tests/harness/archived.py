"""An image of some files, to be put into an archive and got from there: what the archive's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.archive import reader, writer
from checkpoint.archive.keys import Secret
from checkpoint.archive.objects import Objects
from checkpoint.core import stored
from checkpoint.core.container import CHUNK_BYTES
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Machine, Manifest

KEK = Secret(bytearray(range(32)))
HERE = Machine("4.2.1", "6.12", "x86_64", ["avx"])
CONTENT = {
    "pstree.img": b"p" * 100, "empty.img": b"", "files.img": os.urandom(5000), "zeros.img": bytes(CHUNK_BYTES + 5),
    "pages-1.img": os.urandom(stored.SMALL_BYTES) + bytes(3 * CHUNK_BYTES + 77), "zz-empty.img": b"",
}  # fmt: skip


def draft(image: str) -> Manifest:
    return Manifest(1, image, "redis", ["redis-server", "--requirepass", "hidden"], 1.0, HERE, "", ["10.0.0.1"], {},
                    "/log", 1, [], [], [])  # fmt: skip


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
