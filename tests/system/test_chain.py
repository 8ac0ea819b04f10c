"""A workload that has moved once moves again, and home: nothing is lost, and no flow takes a longer way for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import cycle, pairwise

import pytest

from tests.harness.clients import Echo, Stream
from tests.harness.moving import PORT, REDIS_PORT, ask, scene


@pytest.fixture
async def stage():
    async with scene() as made:
        made.c = await made.lab.create("c")
        yield made


async def move_all(stage, workload, *pods):
    """From pod to pod; every move must succeed and lose nothing."""
    for source, destination in pairwise(pods):
        result = await stage.move(workload, source, destination)
        assert result.outcome == "succeeded", result.error
        assert result.error is None
        assert result.flows.lost == result.bytes.lost == 0, result.ledger
        assert all(row.offsets_equal for row in result.ledger), result.ledger


async def flows_of(stage):
    return [view for pod in (stage.a, stage.b, stage.c) for view in await stage.flows(pod)]


async def one_link_each(stage, seconds=10.0):
    """Until every flow has one peer leg and one app leg, and so one link; fails after `seconds`."""
    for _ in range(int(seconds / 0.05)):
        found = Counter((view.flow, view.side) for view in await flows_of(stage))
        if all(count == 1 for count in found.values()):
            return len(found) // 2
        await asyncio.sleep(0.05)
    raise AssertionError(f"longer ways: {[each for each, count in found.items() if count > 1]}")


def load(stage):
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(4)]
    clients += [Stream(stage.client, stage.a.address, PORT) for _ in range(2)]
    return [*clients, Stream(stage.client, stage.a.address, PORT, pause_seconds=0.02)]


async def finish(clients):
    for client in clients:
        await asyncio.to_thread(client.finish)


async def test_a_connection_follows_from_pod_to_pod(stage):
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "INCR counter") == ":1"
    await move_all(stage, "redis", stage.a, stage.b, stage.c)
    assert ask(client, "INCR counter") == ":2"
    assert await one_link_each(stage) == 1
    assert ask(client, "INCR counter") == ":3"
    assert await stage.flows(stage.b) == []


async def test_streams_follow_from_pod_to_pod(stage):
    await stage.run_server()
    clients = load(stage)
    await asyncio.sleep(0.3)
    await move_all(stage, "server", stage.a, stage.b, stage.c)
    assert await one_link_each(stage) == len(clients)
    await finish(clients)


async def test_streams_follow_home(stage):
    await stage.run_server()
    clients = load(stage)
    await asyncio.sleep(0.3)
    await move_all(stage, "server", stage.a, stage.b, stage.a)
    assert await one_link_each(stage) == len(clients)
    await finish(clients)


async def test_ten_moves_under_load(stage):
    await stage.run_server()
    clients = load(stage)
    await asyncio.sleep(0.3)
    way = cycle([stage.a, stage.b, stage.c])
    await move_all(stage, "server", *(next(way) for _ in range(11)))
    assert await one_link_each(stage) == len(clients)
    await finish(clients)
