from __future__ import annotations

import asyncio
import random
import socket

import pytest

from proxy.io.initiated import InitiatedLink
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.breaking import WHOLE, cutting
from tests.harness.broken import Broken, breaks, moved, prepared_over, talk

pytestmark = [parts.NEEDS_ROOT, parts.BOTH_CARRIERS]


@pytest.mark.parametrize("most", [6_000, 30_000, 600_000])
async def test_streams_survive_any_cuts(plane: Plane, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection carries up to so many bytes: some are cut in their first frames, some in mid-stream."""
    monkeypatch.setattr(InitiatedLink, "LATEST_SECONDS", 0.1)
    dice = random.Random(most)
    async with cutting(parts.link_endpoint(plane), lambda n: dice.randrange(1, most) if 1 <= n <= 60 else WHOLE) as net:
        await prepared_over(plane, net, relink_seconds=30)
        flows = moved(plane, 4)
        size = min(2 << 20, 8 * most)
        there, back = dice.randbytes(size), dice.randbytes(size)
        async with asyncio.TaskGroup() as group:
            for each in flows:
                group.create_task(talk(each.peer, there, back), name="peer")
                group.create_task(talk(each.app, back, there), name="app")
        await parts.eventually(lambda: all(line.state == "closed" for line in plane.outbound_ledger("m")))
        await parts.eventually(lambda: not plane.context.links)
        assert breaks(plane)["broken"] >= 2
        assert "lost" not in breaks(plane)
        for line in (*plane.outbound_ledger("m"), *plane.inbound_ledger("m")):
            assert (line.to_app_bytes, line.to_peer_bytes, line.link_unacked_bytes) == (size, size, 0)
        for each in flows:
            each.close()


async def test_a_break_while_nothing_is_said(broken: Broken) -> None:
    broken.network.cut()
    await broken.exchange()
    assert breaks(broken.plane)["broken"] == breaks(broken.plane)["resumed"] == 2


async def test_bytes_and_half_closes_said_while_it_is_broken(broken: Broken) -> None:
    broken.network.refusing = True
    broken.network.cut()
    await parts.eventually(lambda: breaks(broken.plane).get("broken") == 2)
    broken.flow.peer.send(b"there")
    broken.flow.peer.shutdown(socket.SHUT_WR)
    broken.flow.app.send(b"back")
    await broken.flow.become("leg_ended", "relaying")
    broken.network.refusing = False
    assert await parts.read(broken.flow.app, 10) == b"there"
    assert await parts.read(broken.flow.peer, 4) == b"back"
    broken.network.cut()
    broken.flow.app.shutdown(socket.SHUT_WR)
    assert await parts.read(broken.flow.peer, 1) == b""
    await broken.flow.become("closed", "closed")
    await parts.eventually(lambda: not broken.plane.context.links)
