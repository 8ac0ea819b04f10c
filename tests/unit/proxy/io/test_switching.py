"""A flow changes over to a further link: asked for, asked for again, refused, or given up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.io.plane import Plane
from proxy.io.source import SourceFlow
from proxy.io.switching import Switching
from tests.harness import proxy_parts as parts

pytestmark = parts.NEEDS_ROOT


@pytest.fixture
async def moved() -> AsyncIterator[parts.Moved]:
    async with parts.plane() as plane:
        await parts.prepared(plane, links=1)
        made = parts.Moved(plane)
        made.move()
        yield made
        made.close()


def flow_of(plane: Plane) -> SourceFlow:
    (flow,) = plane.outbound["m"].flows.values()
    return flow


def switching(moved: parts.Moved) -> Switching:
    flow = flow_of(moved.plane)
    return Switching(flow, moved.plane.outbound["m"].links, "the straight way")


async def exchange(moved: parts.Moved) -> None:
    for one, other in ((moved.peer, moved.app), (moved.app, moved.peer)):
        one.send(b"hello")
        assert await parts.read(other, 5) == b"hello"


async def test_it_changes_over_and_nothing_is_lost(moved: parts.Moved) -> None:
    await exchange(moved)
    for _ in range(2):
        assert await switching(moved).run()
        await exchange(moved)
    flow = flow_of(moved.plane)
    assert flow.via == "the straight way"
    await parts.eventually(lambda: len(flow.path.links) == 1)


async def test_it_changes_over_while_its_links_sleep(moved: parts.Moved) -> None:
    flow = flow_of(moved.plane)
    for _ in range(2):
        link = flow.path.link
        assert link
        await parts.eventually(lambda link=link: link.may_rest)
        link.rest()
        await parts.eventually(lambda link=link: link.is_asleep)
        assert await switching(moved).run()
        await parts.eventually(lambda: len(flow.path.links) == 1)  # the old one has been woken to end
    assert flow.path.link
    flow.path.link.rest()
    await exchange(moved)
    assert moved.plane.context.totals.links_refused == moved.plane.context.totals.links_broken == {}


async def test_a_young_newcomer_that_is_not_known_yet_is_asked_for_again(
    moved: parts.Moved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Switching, "RETRY_SECONDS", 0.005)
    flow_of(moved.plane).direction = "accepted"
    flows = moved.plane.inbound["m"].flows
    ((number, there),) = flows.items()
    del flows[number]
    run = asyncio.create_task(switching(moved).run(), name="switching")
    refused = moved.plane.context.totals.links_refused
    await parts.eventually(lambda: refused.get("conflict", 0) >= 2)
    flows[number] = there
    assert await run
    await exchange(moved)


async def asked_in_vain(moved: parts.Moved) -> int:
    """How often the destination has been asked for a flow that it does not know, until that is given up."""
    flows, refused = moved.plane.inbound["m"].flows, moved.plane.context.totals.links_refused
    known = dict(flows)
    flows.clear()
    assert not await switching(moved).run()
    flows.update(known)
    return refused["conflict"]


async def test_an_adopted_flow_that_is_not_known_any_more_keeps_its_way(moved: parts.Moved) -> None:
    assert await asked_in_vain(moved) == 1
    await exchange(moved)


async def test_an_old_newcomer_that_is_not_known_any_more_keeps_its_way(moved: parts.Moved) -> None:
    flow_of(moved.plane).direction = "accepted"
    flow_of(moved.plane).began -= Switching.GIVE_UP_SECONDS
    assert await asked_in_vain(moved) == 1
    await exchange(moved)


async def test_a_newcomer_that_the_workload_has_ended_is_not_waited_for(moved: parts.Moved) -> None:
    flow_of(moved.plane).direction = "accepted"
    moved.app.shutdown(socket.SHUT_WR)
    await moved.become("link_ended", "leg_ended")
    assert await asked_in_vain(moved) == 1


async def test_nobody_is_asked_without_end(moved: parts.Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Switching, "GIVE_UP_SECONDS", 0.1)
    plane = moved.plane
    plane.outbound["m"].links.close()
    plane.context.poller.forget(plane.acceptor._listener)
    plane.acceptor._listener.close()
    assert not await switching(moved).run()
    await exchange(moved)


async def test_a_flow_that_has_ended_has_nothing_to_switch(moved: parts.Moved) -> None:
    one = switching(moved)
    moved.plane.release_outbound("m", force=True)
    assert not await one.run()


async def test_a_flow_that_ends_before_the_answer_ends_in_order(moved: parts.Moved) -> None:
    """The workload, which has ended its stream before, is slow to read the peer's."""
    (there,) = moved.plane.inbound["m"].flows.values()
    there.leg.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
    moved.app.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
    moved.app.shutdown(socket.SHUT_WR)
    await moved.become("link_ended", "leg_ended")
    acceptor = moved.plane.acceptor
    acceptor._listen(False)
    run = asyncio.create_task(switching(moved).run(), name="switching")
    assert moved.peer.send(bytes(300_000)) == 300_000
    moved.peer.shutdown(socket.SHUT_WR)
    await moved.become("closed", "leg_ended")
    acceptor._listen(True)
    await run
    assert len(await parts.read(moved.app, 300_001)) == 300_000
    await moved.become("closed", "closed")
    await parts.eventually(lambda: not moved.plane.context.links)
