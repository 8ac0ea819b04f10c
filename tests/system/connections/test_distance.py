"""Moves between pods and clients that are far away, over a network that loses, doubles and reorders packets."""

from __future__ import annotations

import asyncio

from controller.core.transfer import Transfer
from tests.harness.clients import Echo, Stream
from tests.harness.distance import far_away
from tests.harness.journeys import assert_nothing_lost
from tests.harness.moving import ONE_LOOP, PORT

pytestmark = ONE_LOOP


async def test_there_and_back(stage):
    """Each way takes 10 ms to the clients and 5 ms more to the other pod, and of a hundred packets two are lost, two
    come twice, and two come late."""
    await stage.run_server()
    with far_away(stage.lab, stage.client, 0.010, 0.02, seed=1) as to_clients, \
         far_away(stage.lab, stage.b, 0.005, 0.02, seed=2) as between_pods:  # fmt: skip
        clients = [Echo(stage.client, stage.a.address, PORT, chunk_bytes=2000) for _ in range(4)]
        clients += [Stream(stage.client, stage.a.address, PORT) for _ in range(2)]
        clients += [Stream(stage.client, stage.a.address, PORT, pause_seconds=0.02) for _ in range(2)]
        await asyncio.sleep(0.5)
        for source, destination in ((stage.a, stage.b), (stage.b, stage.a)):
            result = await stage.move("server", source, destination, transfer=Transfer("direct"))
            assert_nothing_lost(result)
            assert result.flows.adopted == 8
            await asyncio.sleep(0.5)
        for client in clients:
            await asyncio.to_thread(client.finish)
    for frames in (*to_clients, *between_pods):
        assert min(frames) > 10, frames
