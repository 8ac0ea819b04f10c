from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
import uvloop

from proxy.api import PrepareOutbound
from proxy.io import hold_limit
from proxy.io.plane import Plane
from proxy.io.source import SourceFlow
from tests.harness import proxy_parts as parts
from tests.harness.proxy_image import Image
from tests.unit.proxy.io.test_adoption import Agent

pytestmark = parts.NEEDS_ROOT


@pytest.mark.usefixtures("prepared")
async def test_limits_come_after_the_answer_and_go_with_the_release(plane: Plane) -> None:
    peer, app = parts.tcp_pair()
    with peer, app:
        before = app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        migration = plane.outbound["m"]
        migration.plan = PrepareOutbound(migration.plan.destination, parts.TOKEN, {}, 0, parts.HoldPolicy(0))
        app.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)
        large = app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        migration.adopt([parts.wanted(Image(app))], [app.dup()])
        assert app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == large
        await parts.eventually(lambda: app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < large)
        plane.release_outbound("m")
        assert app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == large > before


@pytest.fixture(scope="module")
def libuv() -> None:
    """Its pipe, for signals, lasts as long as the process."""
    uvloop.new_event_loop().close()


@pytest.mark.usefixtures("libuv")
def test_a_proxy_that_stood_still_hears_first_that_the_hold_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the loop that it has: there timers come before whatever has arrived."""
    limited: list[int] = []
    monkeypatch.setattr(SourceFlow, "limit", lambda flow, share: limited.append(share))
    monkeypatch.setattr(hold_limit, "LIMIT_SECONDS", 0.05)

    async def stand_still() -> None:
        async with parts.plane() as plane:
            await parts.prepared(plane)
            agent, moved = Agent(plane, tmp_path / "adopt.sock"), parts.Moved(plane)
            moved.adopt()
            agent.sock.send(b'{"op":"release","migration":"m"}')
            time.sleep(0.2)
            await parts.eventually(lambda: "m" not in plane.outbound)
            moved.close()
            agent.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(stand_still())
    assert limited == []
