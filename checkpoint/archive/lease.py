"""Leases on images, and the archive's own clock: what the clocks of other machines say decides nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from checkpoint.archive.objects import Objects
from checkpoint.core import leases
from checkpoint.core.errors import AgentError

_GIVE_BACK_SECONDS = 5.0


@asynccontextmanager
async def lease(objects: Objects, image: str, seconds: float) -> AsyncIterator[None]:
    """Have an image to oneself and other readers for so long: nobody collects it. Given back at the end."""
    path = f"{leases.folder(image)}/{leases.lease_name(secrets.token_hex(4), seconds)}"
    written = asyncio.create_task(objects.put(path, b""), name="the lease")
    try:
        await asyncio.shield(written)
        yield
    finally:
        # What was done is done, and what went wrong is told: a lease that stays behind runs out by itself. Written to
        # the end first: a write that is called off may still happen, after the deletion.
        with suppress(AgentError, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_SECONDS):
                await written
                await objects.delete(path)


async def archive_clock(objects: Objects) -> float:
    """Unix time, as the archive has it: what it writes on an object of ours."""
    path = f"clock-{secrets.token_hex(4)}"
    await objects.put(path, b"")
    try:
        return await objects.modified(path)
    finally:
        await objects.delete(path)
