"""What the agent's tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait, on the event loop, until something is true; fail after five seconds."""

    async def wait(what: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not what():  # noqa: ASYNC110 - what is waited for is told nobody
                await asyncio.sleep(0.005)

    return wait
