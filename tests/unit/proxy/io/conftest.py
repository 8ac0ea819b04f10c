"""What several of these tests stand on: a plane, a flow whose network can be broken, a destination to dial."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.api import PrepareInbound
from proxy.io.connection import Tls
from proxy.io.context import Context
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.breaking import WHOLE, cutting
from tests.harness.broken import RELINK_SECONDS, Broken, moved, prepared_over
from tests.harness.link_ends import Destination
from tests.harness.proxy_process import certified


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    async with parts.context() as made:
        yield made


@pytest.fixture
async def plane(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Plane]:
    """In cleartext, unless the test is marked `parts.BOTH_CARRIERS`."""
    carrier = getattr(request, "param", "cleartext")
    async with parts.plane(Tls(certified(tmp_path, "a", "127.0.0.1")) if carrier == "TLS" else None) as made:
        yield made


@pytest.fixture
async def prepared(plane: Plane) -> None:
    """The plane has a migration "m" to itself."""
    await parts.prepared(plane)


@pytest.fixture
async def welcoming(plane: Plane) -> None:
    """The plane awaits a migration "m", and nobody has dialled."""
    plane.prepare_inbound("m", PrepareInbound(parts.TOKEN))


@pytest.fixture
async def broken(request: pytest.FixtureRequest, plane: Plane) -> AsyncIterator[Broken]:
    """Its parameter, if the test gives one: for how many seconds a broken link is made again."""
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as network:
        await prepared_over(plane, network, getattr(request, "param", RELINK_SECONDS))
        (flow,) = moved(plane)
        made = Broken(plane, network, flow)
        await made.exchange()
        yield made
        flow.close()


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    made = Destination()
    yield made
    made.close()
