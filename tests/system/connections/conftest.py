"""The workload of all these tests: a puppet that does what it is told."""

from __future__ import annotations

import pytest_asyncio

from tests.harness.journeys import puppet


@pytest_asyncio.fixture(loop_scope="session")
async def told(stage):
    async with puppet(stage) as made:
        yield made
