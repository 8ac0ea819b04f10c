"""Old ways: kept where a move is taken back, waited for, shortened late, drained, and cut by force."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from controller import journal
from controller.commands.moves import resume
from controller.commands.status import migrations_folder
from tests.harness.chained import finish, load, move_all, one_link_each
from tests.harness.clients import Echo, Stream
from tests.harness.journeys import cancelled_while_restoring
from tests.harness.moving import ONE_LOOP, PORT, REDIS_PORT, ask, spoilt

pytestmark = ONE_LOOP


@pytest.mark.parametrize("home", [False, True])
async def test_a_second_move_that_is_rolled_back_leaves_the_relayed_flows_as_they_were(stage, home):
    await stage.run_server()
    clients = load(stage)
    await asyncio.sleep(0.3)
    await move_all(stage, "server", stage.a, stage.b)
    destination = stage.a if home else stage.c
    result = await stage.move("server", stage.b, destination, prepare=cancelled_while_restoring)
    assert result.outcome == "rolled-back"
    assert await one_link_each(stage) == len(clients)
    late = Echo(stage.client, stage.a.address, PORT)
    await asyncio.sleep(0.2)
    await move_all(stage, "server", stage.b, destination)
    assert await one_link_each(stage) == len(clients) + 1
    await finish([*clients, late])


async def test_a_move_waits_while_earlier_ones_have_left_too_much_before_a_reader(stage):
    """Nothing reads: each move leaves a way behind. The next but one waits, says so, and goes on when that is read."""
    await stage.run_server()
    reader = Stream(stage.client, stage.a.address, PORT, reads=False)
    try:
        observers = []

        def watch(driver):
            observers.append(driver.observer)
            said = driver.observer.waiting

            def waiting(why):
                said(why)
                reader.read_on()

            driver.observer.waiting = waiting

        for source, destination in pairwise((stage.a, stage.b, stage.c) * 3):
            result = await stage.move("server", source, destination, prepare=watch)
            assert result.outcome == "succeeded", result.error
            if waits := observers[-1].waits:
                break
            await something_came_by(stage, destination)
        assert len(observers) > 2
        assert waits
        assert all("ways of earlier moves" in why for why in waits)
    finally:
        await asyncio.to_thread(reader.finish)


async def something_came_by(stage, pod):
    """Until the workload in `pod` has written something to the one flow it has: with nothing in it no way lasts."""
    for _ in range(3000):
        if any(view.side == "destination" and view.to_peer_bytes for view in await stage.flows(pod)):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"nothing was written from {pod.name}")


async def test_a_controller_that_takes_over_shortens_the_ways(stage):
    """The one before ended in Draining, and its token with it."""
    await stage.run_server()
    clients = load(stage)
    await move_all(stage, "server", stage.a, stage.b)
    move = stage.move("server", stage.b, stage.c)
    async with spoilt(move, stage.b.proxy_socket, "/ledger", method="GET") as (moving, _):
        moving.cancel()
        await asyncio.wait([moving])
    records, _ = journal.read_all(migrations_folder(stage.lab.home))
    (migration,) = [each.intent.migration for each in records if each.interrupted]
    assert await resume(stage.lab.home, migration, as_json=True) == 0
    assert await one_link_each(stage) == len(clients)
    assert await stage.flows(stage.b) == []
    late = Echo(stage.client, stage.a.address, PORT)
    await finish([*clients, late])


async def test_drain_waits_until_a_pod_relays_nothing(stage):
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert await stage.midstream("drain", "a") == (0, "a: relays nothing\n", "")
    await move_all(stage, "redis", stage.a, stage.b)
    assert await stage.midstream("drain", "a") == (1, "a: relays 1 flow\n", "")
    status, _, words = await stage.midstream("pod", "delete", "a")
    assert (status, "pod a relays 1 flow" in words) == (1, True), words
    assert ask(client, "PING") == "+PONG"
    waiting = await stage.start_midstream("drain", "a", "--wait")
    assert await waiting.stdout.readline() == b"a: relays 1 flow\n"
    client.close()
    out, _ = await asyncio.wait_for(waiting.communicate(), 60)
    assert (waiting.returncode, out) == (0, b"a: relays nothing\n")


async def test_a_pod_that_relays_is_deleted_where_that_is_forced(stage):
    left = await stage.lab.create("left")
    await stage.run_redis(pod=left)
    client = stage.connect(stage.client, left.address, REDIS_PORT)
    await move_all(stage, "redis", left, stage.b)
    assert ask(client, "PING") == "+PONG"
    assert (await stage.midstream("pod", "delete", "left", "--force"))[0] == 0
    native = stage.connect(stage.client, stage.b.address, REDIS_PORT)
    assert ask(native, "PING") == "+PONG"
