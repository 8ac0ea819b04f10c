"""Wait for a descriptor: one primitive for sockets of every kind and for pidfds."""

from __future__ import annotations

import asyncio


async def readable(fd: int) -> None:
    """Return when `fd` can be read (a pidfd: when its process has ended)."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
