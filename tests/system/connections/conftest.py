"""The workload of all these tests: a puppet that does what it is told."""

from __future__ import annotations

import pytest
import pytest_asyncio

from controller import pairs
from tests.harness.connected import finish, load
from tests.harness.journeys import start_puppet


@pytest_asyncio.fixture(loop_scope="session")
async def told(stage):
    return await start_puppet(stage)


@pytest_asyncio.fixture(loop_scope="session")
async def under_load(stage, told):
    """Beside what is tried the puppet streams both ways, before, during and after it, and every byte was right."""
    client = load(stage, told)
    yield
    await finish(told, client, "load")


@pytest.fixture(autouse=True)
def ahead(monkeypatch):
    """However few they are, both ends of connections are made ahead, where nothing speaks against it."""
    monkeypatch.setattr(pairs, "FEWEST_PAIRS", 1)


@pytest.fixture(params=["ahead", "by their images"])
def either_way(request, ahead, monkeypatch):
    """The connections travel so, as far as they can, and so."""
    if request.param != "ahead":
        monkeypatch.setattr(pairs, "FEWEST_PAIRS", 1_000_000)
