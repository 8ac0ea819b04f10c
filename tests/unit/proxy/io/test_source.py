from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.core.flow import Event, State
from proxy.io.initiated import InitiatedLink
from proxy.io.plane import Plane
from proxy.io.relay import discard
from proxy.io.source import SourceFlow
from tests.harness import proxy_parts as parts
from tests.harness.breaking import WHOLE, Cutter, cutting

pytestmark = [parts.NEEDS_ROOT, pytest.mark.usefixtures("prepared")]


@pytest.fixture
async def moved(plane: Plane) -> AsyncIterator[parts.Moved]:
    plane.outbound["m"].links.close()  # its flow finds no connection, and seeks one when it is repointed
    made = parts.Moved(plane, before=b"in the image, ")
    made.adopt()
    yield made
    made.close()


def flow_of(moved: parts.Moved) -> SourceFlow:
    (flow,) = moved.plane.outbound["m"].flows.values()
    return flow


async def unreachable(plane: Plane) -> None:
    """Nobody takes links, and the ones there are are gone."""
    plane.outbound["m"].links.close()
    plane.context.poller.forget(plane.acceptor._listener)
    plane.acceptor._listener.close()


async def test_a_link_is_tried_again_until_it_is_given_up(moved: parts.Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceFlow, "GIVE_UP_SECONDS", 0.05)
    await unreachable(moved.plane)
    moved.plane.repoint("m")
    assert flow_of(moved).state is State.LINKING
    await parts.eventually(lambda: flow_of(moved).is_over)
    assert flow_of(moved).error == "Connection refused"


@pytest.mark.parametrize("released", [False, True], ids=["no link in time", "by force"])
async def test_the_workload_hears_of_a_flow_that_was_lost_before_it_had_a_link(
    plane: Plane, released: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much later its proxy can be reached; nobody else would ever tell it."""
    monkeypatch.setattr(SourceFlow, "GIVE_UP_SECONDS", 10.0 if released else 0.05)
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as network, lonely(plane, network) as moved:
        moved.move()
        if released:
            plane.release_outbound("m", force=True)
        else:
            await moved.become("reset", "resumed")
        tried = network.turned_away
        await parts.eventually(lambda: network.turned_away > tried + 1)
        network.refusing = False
        with pytest.raises(ConnectionResetError):
            await parts.read(moved.app, 1)
        await parts.eventually(lambda: not asking(plane))


async def test_that_is_not_tried_for_ever(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceFlow, "GIVE_UP_SECONDS", 0.05)
    monkeypatch.setattr(InitiatedLink, "FAREWELL_SECONDS", 0.2)
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as network, lonely(plane, network) as moved:
        moved.move()
        await moved.become("reset", "resumed")
        await parts.eventually(lambda: not asking(plane))


def asking(plane: Plane) -> list[InitiatedLink]:
    return [link for link in plane.context.links if isinstance(link, InitiatedLink)]


@asynccontextmanager
async def lonely(plane: Plane, network: Cutter) -> AsyncIterator[parts.Moved]:
    """A flow that has no link, and can have none: the network refuses."""
    plane.outbound["m"].links.destination = network.endpoint
    plane.outbound["m"].links.close()
    network.refusing = True
    moved = parts.Moved(plane)
    try:
        yield moved
    finally:
        moved.close()


async def test_a_flow_that_waits_for_a_link_can_be_released(moved: parts.Moved) -> None:
    await unreachable(moved.plane)
    moved.plane.repoint("m")
    moved.plane.release_outbound("m", force=True)
    assert "m" not in moved.plane.outbound


async def test_bytes_that_are_missing_are_noticed(moved: parts.Moved, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody read from the held socket: it cannot happen, and if it does, the flow is not passed on with a hole.

    Its link is ready only then; the destination hears of the end over it.
    """
    moved.build()
    moved.commit_app()
    moved.plane.resume("m")
    flow = flow_of(moved)
    assert discard(flow.leg, 4, moved.plane.context.scratch) == 4
    moved.plane.repoint("m")
    await parts.eventually(lambda: flow.is_over)
    assert "10 of 14 bytes" in flow.error
    await moved.become("reset", "reset")
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_peer_that_reset_during_the_hold(moved: parts.Moved) -> None:
    moved.build()
    moved.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    moved.peer.close()
    moved.commit_app()
    moved.plane.resume("m")
    moved.plane.repoint("m")
    await moved.become("reset", "reset")
    assert flow_of(moved).held_bytes == 0


async def test_arrivals_are_counted(moved: parts.Moved) -> None:
    flow = flow_of(moved)
    assert flow.arrived_since_adoption() == 0
    moved.peer.sendall(b"12345")
    await parts.eventually(lambda: flow.arrived_since_adoption() == 5)
    assert (flow.unread_bytes, flow.held_bytes, flow.unsent_bytes) == (14, 5, 0)
    flow.tell(Event.RELEASE)
    assert flow.state is State.RELEASED
