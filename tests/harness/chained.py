"""Moves from pod to pod to pod, and what is left of a flow's ways then."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

from tests.harness.clients import Echo, Stream
from tests.harness.journeys import assert_nothing_lost
from tests.harness.moving import PORT


async def move_all(stage, workload, *pods):
    """From pod to pod; every move must succeed and lose nothing."""
    for source, destination in pairwise(pods):
        result = await stage.move(workload, source, destination)
        assert_nothing_lost(result)
        assert result.error is None


async def flows_of(stage):
    return [view for pod in (stage.a, stage.b, stage.c) for view in await stage.flows(pod)]


async def one_link_each(stage, seconds=30.0):
    """Until every flow has one peer leg and one app leg, and so one link; fails after `seconds`.

    The longer way lasts as long as a slow reader still has bytes before it that went that way.
    """
    for _ in range(int(seconds / 0.05)):
        found = Counter((view.flow, view.side) for view in await flows_of(stage))
        if all(count == 1 for count in found.values()):
            return len(found) // 2
        await asyncio.sleep(0.05)
    raise AssertionError(f"longer ways: {[each for each, count in found.items() if count > 1]}")


def load(stage):
    """Three that say and hear 7 MB/s together, two that hear 16 and 8: relayed at full speed they take a processor."""
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(3)]
    return [*clients, *(Stream(stage.client, stage.a.address, PORT, pause_seconds=each) for each in (0.004, 0.008))]


async def finish(clients):
    for client in clients:
        await asyncio.to_thread(client.finish)


async def nothing_is_left(stage):
    """No flow in any pod, and no address but its own, once the last acknowledgements had their time."""
    for _ in range(600):
        if not await flows_of(stage):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await flows_of(stage))
