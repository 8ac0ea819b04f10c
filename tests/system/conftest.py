"""What the tests share: pods and proxies take a second to make, and a moment to clear."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from tests.harness.moving import scene
from tests.harness.proxy_rig import Rig


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing():
    """One scene for all of these tests."""
    async with scene() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def stage(standing):
    """With nothing in it that an earlier test has left."""
    yield standing
    await standing.clear()


@pytest_asyncio.fixture(loop_scope="session")
async def mended(standing):
    """The same for a test that ends pods, or parts of them."""
    yield standing
    await standing.mend()


@pytest_asyncio.fixture(loop_scope="session")
async def own_stage():
    """A scene of the test's own, for what changes its pods."""
    async with scene() as made:
        yield made


@pytest.fixture(scope="package")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Two proxies for all tests of this folder that end neither of them."""
    with closing(Rig(tmp_path_factory.mktemp("proxies"))) as made:
        made.start_proxies()
        yield made


@pytest.fixture
def rig(proxies: Rig) -> Iterator[Rig]:
    """Them, for one test's migration."""
    with closing(proxies.lent()) as lent:
        yield lent


@pytest.fixture
def own_rig(tmp_path: Path) -> Iterator[Rig]:
    """Two proxies of the test's own, for what ends them, or counts all that they have done."""
    with closing(Rig(tmp_path)) as made:
        made.start_proxies()
        yield made
