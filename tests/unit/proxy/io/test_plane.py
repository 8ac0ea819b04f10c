from __future__ import annotations

import asyncio
import os

import pytest

from proxy.api import Endpoint, Prepared, PrepareInbound, PrepareOutbound, Released
from proxy.core.errors import Code, ProxyError
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts


def refusal(error: pytest.ExceptionInfo[ProxyError]) -> Code:
    return error.value.code


async def test_preparing_may_be_said_twice_but_not_otherwise(plane: Plane) -> None:
    await parts.prepared(plane, links=2)
    plan = PrepareOutbound(parts.link_endpoint(plane), parts.TOKEN, parts.READDRESS, 2)
    assert await plane.prepare_outbound("m", plan) == Prepared(2)
    with pytest.raises(ProxyError) as raised:
        await plane.prepare_outbound("m", PrepareOutbound(plan.destination, parts.TOKEN, {}, 2))
    assert refusal(raised) is Code.CONFLICT
    assert plane.prepare_inbound("m", PrepareInbound(parts.TOKEN)).links > 0
    with pytest.raises(ProxyError) as raised:
        plane.prepare_inbound("m", PrepareInbound("00" * 32))
    assert refusal(raised) is Code.CONFLICT


async def test_two_callers_at_once_prepare_once(plane: Plane) -> None:
    plane.prepare_inbound("m", PrepareInbound(parts.TOKEN))
    plan = PrepareOutbound(parts.link_endpoint(plane), parts.TOKEN, {}, 3)
    answers = await asyncio.gather(*(plane.prepare_outbound("m", plan) for _ in range(3)))
    assert answers == [Prepared(3)] * 3
    assert plane.outbound["m"].ready_links == 3


async def test_where_the_workload_runs_already_no_link_waits_for_it(plane: Plane) -> None:
    plane.prepare_inbound("m", PrepareInbound(parts.TOKEN))
    plane.resume("m")
    plan = PrepareOutbound(parts.link_endpoint(plane), parts.TOKEN, {}, 1, spare_links=1)
    with pytest.raises(ProxyError) as raised:
        await plane.prepare_outbound("m", plan)
    assert refusal(raised) is Code.LINK_FAILED
    await parts.eventually(lambda: not (plane.acceptor._known or plane.context.links))


async def test_a_preparation_that_fails_leaves_nothing(plane: Plane) -> None:
    with pytest.raises(ProxyError) as raised:
        await plane.prepare_outbound("m", PrepareOutbound(parts.link_endpoint(plane), parts.TOKEN, {}))
    assert refusal(raised) is Code.LINK_FAILED
    assert "no migration here" in raised.value.message
    assert not plane.outbound


@pytest.mark.parametrize("token", ["", "ab" * 31, "zz" * 32, " " * 64, "ab " * 21 + "a"])
async def test_tokens_have_a_form(plane: Plane, token: str) -> None:
    with pytest.raises(ProxyError) as raised:
        plane.prepare_inbound("m", PrepareInbound(token))
    assert refusal(raised) is Code.BAD_REQUEST


async def test_names_and_addresses_have_a_form(plane: Plane) -> None:
    for name in ("", "m" * 129, "ü" * 65):
        with pytest.raises(ProxyError) as raised:
            plane.prepare_inbound(name, PrepareInbound(parts.TOKEN))
        assert refusal(raised) is Code.BAD_REQUEST
    for plan in (
        PrepareOutbound(Endpoint("localhost", 1), parts.TOKEN, {}),
        PrepareOutbound(Endpoint("127.0.0.1", 1), parts.TOKEN, {"a": "127.0.0.1"}),
        PrepareOutbound(Endpoint("127.0.0.1", 1), parts.TOKEN, {"127.0.0.1": "b"}),
    ):
        with pytest.raises(ProxyError) as raised:
            await plane.prepare_outbound("m", plan)
        assert refusal(raised) is Code.BAD_REQUEST


async def test_what_is_unknown(plane: Plane) -> None:
    for call in (plane.repoint, plane.resume, plane.outbound_ledger, plane.inbound_ledger):
        with pytest.raises(ProxyError) as raised:
            call("nobody's")
        assert refusal(raised) is Code.UNKNOWN_MIGRATION
    assert plane.release_inbound("nobody's") == plane.release_outbound("nobody's") == Released(0)


@parts.NEEDS_ROOT
async def test_health_tells_what_is_held(plane: Plane) -> None:
    await parts.prepared(plane)
    moved = parts.Moved(plane, before=b"unread")
    moved.adopt()
    moved.peer.sendall(b"held")
    await parts.eventually(lambda: plane.health().held_bytes == 4)
    health = plane.health()
    assert (health.flows, health.held_flows, health.uid) == (1, 1, os.geteuid())
    assert "NET_ADMIN" in health.capabilities
    moved.close()


@parts.NEEDS_ROOT
async def test_the_end_gives_held_flows_back_first(plane: Plane) -> None:
    await parts.prepared(plane)
    moved = parts.Moved(plane)
    moved.adopt()
    plane.stop_taking()
    assert not plane.outbound
    with pytest.raises(ProxyError) as raised:
        plane.prepare_inbound("n", PrepareInbound(parts.TOKEN))
    assert refusal(raised) is Code.SHUTTING_DOWN
    await asyncio.wait_for(plane.relayed_no_more(), parts.PATIENCE_SECONDS)
    moved.close()


@parts.NEEDS_ROOT
async def test_the_end_can_wait_for_relayed_flows(plane: Plane) -> None:
    await parts.prepared(plane)
    moved = parts.Moved(plane)
    moved.move()
    plane.stop_taking()
    assert plane.outbound
    ended = asyncio.create_task(plane.relayed_no_more(), name="ended")
    await asyncio.sleep(0.02)
    assert not ended.done()
    moved.close()
    await asyncio.wait_for(ended, parts.PATIENCE_SECONDS)
