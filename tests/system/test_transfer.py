"""A move whose images go from agent to agent: over connections of their own, as CRIU writes them."""

from __future__ import annotations

import pytest

from controller.core.transfer import Transfer
from tests.harness.moving import REDIS_PORT, ask, scene

DIRECT = Transfer("direct")


@pytest.fixture
async def stage():
    async with scene() as made:
        yield made


async def test_direct(stage):
    await stage.run_redis()
    held = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(held, "SET k v") == "+OK"
    result = await stage.move("redis", transfer=DIRECT)
    assert result.outcome == "succeeded", result.error
    assert ask(held, "SET k w") == "+OK"
    print(result.phases)
