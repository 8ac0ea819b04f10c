"""What the archive's tests share."""

from __future__ import annotations

import asyncio

import obstore
import pytest
from obstore.store import MemoryStore


@pytest.fixture(scope="session", autouse=True)
def obstores_own_threads() -> None:
    """obstore starts its threads, with descriptors of their own, at the first call, and keeps them: no test's leak."""

    async def first() -> None:
        await obstore.put_async(MemoryStore(), "a", b"")

    asyncio.run(first())
