"""Leases on images, and the archive's own clock: what the clocks of other machines say decides nothing."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from checkpoint.archive.objects import Objects
from checkpoint.core import leases


@asynccontextmanager
async def lease(objects: Objects, image: str, seconds: float) -> AsyncIterator[None]:
    """Have an image to oneself and other readers for so long: nobody collects it. Given back at the end."""
    path = f"{leases.folder(image)}/{leases.lease_name(secrets.token_hex(4), seconds)}"
    await objects.put(path, b"")
    try:
        yield
    finally:
        await objects.delete(path)


async def archive_clock(objects: Objects) -> float:
    """Unix time, as the archive has it: what it writes on an object of ours."""
    path = f"clock-{secrets.token_hex(4)}"
    await objects.put(path, b"")
    try:
        return await objects.modified(path)
    finally:
        await objects.delete(path)
