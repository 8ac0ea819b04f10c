"""The scene of all tests, with a third pod that a workload moves on to."""

from __future__ import annotations

import pytest
import pytest_asyncio

from controller import pairs


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def standing(standing):
    standing.c = await standing.lab.create("c")
    yield standing
    await standing.lab.delete("c")


@pytest.fixture(autouse=True)
def ahead(monkeypatch):
    """However few they are, both ends of connections are made ahead, where nothing speaks against it."""
    monkeypatch.setattr(pairs, "FEWEST_PAIRS", 1)
