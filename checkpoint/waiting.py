"""Wait for descriptors: one primitive for sockets of every kind and for pidfds."""

from __future__ import annotations

import asyncio


async def readable(*fds: int) -> None:
    """Return when one of them can be read (a pidfd: when its process has ended)."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    try:
        for fd in fds:
            loop.add_reader(fd, _set, ready)
        await ready
    finally:
        for fd in fds:
            loop.remove_reader(fd)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
