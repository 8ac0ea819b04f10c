from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.core.errors import Code, ProxyError
from proxy.io import retirement
from proxy.io.retirement import Retirement
from tests.harness import proxy_parts as parts

ONE, TWO = bytes(16), bytes(15) + b"\1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retirement, "RETIRE_SECONDS", 0.05)


async def test_keys_go_a_little_after_their_flow() -> None:
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE, TWO])
    made.retire(ONE)
    assert routing.flows == 2
    await parts.eventually(lambda: routing.flows == 1)
    made.retire(TWO)
    await asyncio.sleep(0.02)
    made.retire(ONE)  # of a flow that has no route any more: fine
    await parts.eventually(lambda: routing.flows == 0)
    made.end()
    made.close()


async def test_a_key_that_is_used_again_stays() -> None:
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE])
    made.retire(ONE)
    made.use([ONE])
    await asyncio.sleep(0.1)
    assert routing.flows == 1
    made.close()


async def test_a_key_stays_as_long_as_anybody_uses_it() -> None:
    """A flow that ends behind its successor, which has the same ends."""
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE])
    made.use([ONE])
    made.retire(ONE)
    await asyncio.sleep(0.1)
    assert routing.flows == 1
    made.retire(ONE)
    await parts.eventually(lambda: routing.flows == 0)
    made.end()
    made.close()


async def test_the_routing_goes_with_the_last_key_and_the_last_migration() -> None:
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.begin()
    made.use([ONE])
    made.end()
    made.retire(ONE)
    made.end()
    assert routing._up
    await parts.eventually(lambda: not routing._up)
    made.begin()
    assert routing._up
    made.end()
    assert not routing._up
    made.close()


async def test_a_refusal_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE])

    def refuse(*_: object) -> None:
        raise ProxyError(Code.ROUTING_FAILED, "no")

    monkeypatch.setattr(routing, "change", refuse)
    monkeypatch.setattr(routing, "tear_down", refuse)
    with caplog.at_level(logging.WARNING):
        made.retire(ONE)
        await parts.eventually(lambda: caplog.records)
        routing._keys.clear()
        made.end()
    assert len(caplog.records) == 2
    monkeypatch.undo()
    made.close()
