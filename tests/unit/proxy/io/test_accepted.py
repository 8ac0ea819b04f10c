from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.io.accepted import AcceptedLink
from proxy.io.connection import Tls
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.breaking import WHOLE, cutting
from tests.harness.broken import Broken, breaks, moved, prepared
from tests.harness.proxy_process import certified

pytestmark = parts.NEEDS_ROOT


@pytest.fixture(params=["cleartext", "TLS"])
async def plane(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Plane]:
    tls = Tls(certified(tmp_path, "a", "127.0.0.1")) if request.param == "TLS" else None
    async with parts.plane(tls) as made:
        yield made


@pytest.fixture
async def broken(plane: Plane) -> AsyncIterator[Broken]:
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as network:
        await prepared(plane, network)
        (flow,) = moved(plane)
        made = Broken(plane, network, flow)
        await made.exchange()
        yield made
        flow.close()


async def test_a_link_that_cannot_be_made_again_is_given_up(
    broken: Broken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(AcceptedLink, "GRACE_SECONDS", 0.5)
    broken.network.refusing = True
    broken.network.cut()
    for sock in (broken.flow.peer, broken.flow.app):
        with pytest.raises(ConnectionResetError):
            await parts.read(sock, 1)
    await broken.flow.become("reset", "reset")
    (line,) = broken.plane.inbound_ledger("m")
    assert line.error.endswith("and it was not made again")
    assert breaks(broken.plane)["lost"] == 2
    assert sum("lost" in record.message for record in caplog.records) == 2
