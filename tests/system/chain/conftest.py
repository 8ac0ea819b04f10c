"""The scene of all tests, with a third pod that a workload moves on to."""

from __future__ import annotations

import pytest_asyncio


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def standing(standing):
    standing.c = await standing.lab.create("c")
    yield standing
    await standing.lab.delete("c")
