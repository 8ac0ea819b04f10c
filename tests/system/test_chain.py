"""A workload that has moved once moves again."""

from __future__ import annotations

import pytest

from tests.harness.moving import REDIS_PORT, ask, scene


@pytest.fixture
async def stage():
    async with scene() as made:
        yield made


async def test_relayed_connections_keep_a_workload_where_it_is_until_they_have_ended(stage):
    c = await stage.lab.create("c")
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "INCR counter") == ":1"
    assert (await stage.move("redis")).outcome == "succeeded"
    refused = await stage.move("redis", stage.b, c)
    assert refused.outcome == "rolled-back"
    assert refused.error.code == "relayed-flows"
    assert refused.error.message.startswith("1 connections of the workload are still relayed")
    assert ask(client, "INCR counter") == ":2"
