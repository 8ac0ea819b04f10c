"""A scene that the tests of a file share: pods take a second to make, and a moment to clear."""

from __future__ import annotations

import pytest_asyncio

from tests.harness.moving import scene


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_loop():
    """The module's event loop is there before a test's leak check takes its first look."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing():
    """One scene for all tests of the file."""
    async with scene() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def stage(standing):
    """With nothing in it that an earlier test has left."""
    yield standing
    await standing.clear()


@pytest_asyncio.fixture(loop_scope="module")
async def own_stage():
    """A scene of the test's own, for what ends pods, or parts of them."""
    async with scene() as made:
        yield made
