"""The workload of all these tests: a puppet that does what it is told."""

from __future__ import annotations

import pytest_asyncio

from tests.harness.journeys import start_puppet


@pytest_asyncio.fixture(loop_scope="session")
async def told(stage):
    return await start_puppet(stage)
