"""Flows that a plane moves to itself: every way they can end, with the ledgers of both sides."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from proxy.core.flow import Event, IllegalEvent, State
from proxy.core.succession import Succession
from proxy.io.accepted import AcceptedLink
from proxy.io.flow import Ended
from proxy.io.initiated import InitiatedLink
from proxy.io.line import Line
from proxy.io.link import Link
from proxy.io.path import Path
from proxy.io.plane import Plane
from proxy.io.relay import Giver, Taker, reset
from tests.harness import proxy_parts as parts

pytestmark = parts.NEEDS_ROOT


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with parts.plane() as made:
        await parts.prepared(made, links=1)
        yield made


@pytest.fixture
async def moved(plane: Plane) -> AsyncIterator[parts.Moved]:
    made = parts.Moved(plane, before=b"in the image, ")
    made.adopt()
    made.build()
    made.peer.sendall(b"held, ")
    made.commit()
    plane.resume("m")
    plane.repoint("m")
    yield made
    made.close()


async def test_nothing_is_lost_and_nothing_comes_twice(moved: parts.Moved) -> None:
    moved.peer.send(b"and after")
    assert await parts.read(moved.app, 29) == b"in the image, held, and after"
    moved.app.send(b"answer")
    assert await parts.read(moved.peer, 6) == b"answer"
    (there,), (here,) = moved.plane.outbound_ledger("m"), moved.plane.inbound_ledger("m")
    assert (there.unread_bytes, there.held_bytes, there.to_app_bytes, there.to_peer_bytes) == (14, 6, 15, 6)
    assert (here.to_app_bytes, here.to_peer_bytes) == (15, 6)
    views = {view.side: view for view in moved.plane.views()}
    assert views["source"].via == str(parts.link_endpoint(moved.plane))
    assert views["destination"].via.startswith("127.0.0.1:")
    assert views["source"].state == views["destination"].state == "relaying"


async def test_the_peer_ends_first(moved: parts.Moved) -> None:
    moved.peer.shutdown(socket.SHUT_WR)
    assert await parts.read(moved.app, 100) == b"in the image, held, "
    await moved.become("leg_ended", "link_ended")
    moved.app.send(b"more")
    assert await parts.read(moved.peer, 4) == b"more"
    moved.app.shutdown(socket.SHUT_WR)
    assert await parts.read(moved.peer, 1) == b""
    await moved.become("closed", "closed")


async def test_the_application_ends_first(moved: parts.Moved) -> None:
    moved.app.shutdown(socket.SHUT_WR)
    assert await parts.read(moved.peer, 1) == b""
    await moved.become("link_ended", "leg_ended")
    moved.peer.send(b"more")
    moved.peer.shutdown(socket.SHUT_WR)
    assert await parts.read(moved.app, 100) == b"in the image, held, more"
    await moved.become("closed", "closed")


async def test_the_peer_resets(moved: parts.Moved) -> None:
    assert await parts.read(moved.app, 20)
    reset(moved.peer)
    with pytest.raises(ConnectionResetError):
        await parts.read(moved.app, 1)
    await moved.become("reset", "reset")


async def test_the_application_resets(moved: parts.Moved) -> None:
    assert await parts.read(moved.app, 20)
    reset(moved.app)
    with pytest.raises(ConnectionResetError):
        await parts.read(moved.peer, 1)
    await moved.become("reset", "reset")


async def test_a_reset_found_by_writing_still_delivers_what_came_before(moved: parts.Moved) -> None:
    """The application answers and resets; the peer writes meanwhile; the answer arrives before the reset."""
    assert await parts.read(moved.app, 20)
    moved.app.send(b"last words")
    moved.peer.send(b"too late")
    reset(moved.app)
    assert await parts.read(moved.peer, 10) == b"last words"
    with pytest.raises(ConnectionResetError):
        await parts.read(moved.peer, 1)


async def test_a_reset_of_a_half_closed_and_silent_flow(moved: parts.Moved) -> None:
    moved.peer.shutdown(socket.SHUT_WR)
    await moved.become("leg_ended", "link_ended")
    reset(moved.peer)
    await moved.become("reset", "reset")


async def test_the_links_end_is_a_failure_of_both(moved: parts.Moved) -> None:
    (flow,) = moved.plane.inbound["m"].flows.values()
    flow.tell(Event.LINK_FAILED, "pulled out")
    await moved.become("reset", "reset")
    assert moved.plane.inbound_ledger("m")[0].error == "pulled out"
    flow.tell(Event.RELEASE)
    with pytest.raises(IllegalEvent):
        flow.tell(Event.REPOINT)


async def test_a_forced_release_resets_both_ends(moved: parts.Moved) -> None:
    assert moved.plane.release_inbound("m", force=True).flows == 1
    for sock in (moved.peer, moved.app):
        with pytest.raises(ConnectionResetError):
            await parts.read(sock, 100)


async def test_what_drains_can_be_released(moved: parts.Moved) -> None:
    (flow,) = moved.plane.inbound["m"].flows.values()
    (there,) = moved.plane.outbound["m"].flows.values()
    moved.peer.send(bytes(1 << 20))
    await parts.eventually(lambda: there.state is State.RELAYING)
    moved.peer.shutdown(socket.SHUT_WR)
    moved.app.shutdown(socket.SHUT_WR)
    await parts.eventually(lambda: flow.state in (State.DRAINING, State.LEG_ENDED))
    flow.tell(Event.RELEASE)
    assert flow.is_over


async def in_order(moved: parts.Moved) -> None:
    for here, there in ((moved.peer, moved.app), (moved.app, moved.peer)):
        here.shutdown(socket.SHUT_WR)
        assert await parts.read(there, 100) in (b"", b"in the image, held, ")


async def by_the_peer(moved: parts.Moved) -> None:
    reset(moved.peer)


async def by_the_application(moved: parts.Moved) -> None:
    reset(moved.app)


async def by_force(moved: parts.Moved) -> None:
    for migrations in (moved.plane.inbound, moved.plane.outbound):
        for flow in migrations["m"].flows.values():  # type: ignore[attr-defined]
            flow.tell(Event.RELEASE)


def what_relays() -> list[object]:
    """What there is of flows that are relayed; all of it, for nobody collects what is not freed at once."""
    return [one for one in gc.get_objects() if isinstance(one, Path | Link | Giver | Taker | Line | Succession)]


@pytest.fixture
def nobody_collects() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("end", [in_order, by_the_peer, by_the_application, by_force])
@pytest.mark.usefixtures("nobody_collects")
async def test_of_a_flow_that_has_ended_its_ledger_alone_is_kept(
    moved: parts.Moved, end: Callable[[parts.Moved], Awaitable[None]]
) -> None:
    """And it is freed at once: the collector of cycles looks seldom, and the more so at what has lasted."""
    assert {type(one) for one in what_relays()} >= {Path, InitiatedLink, AcceptedLink, Giver, Taker, Line, Succession}
    await end(moved)
    await parts.eventually(lambda: not what_relays())
    assert [flow.is_over for _, flow in moved.plane.flows()] == [True, True]
    assert sum(moved.plane.context.totals.flows_ended.values()) == 2
    (there,), (here,) = moved.plane.outbound_ledger("m"), moved.plane.inbound_ledger("m")
    if end is in_order:
        assert (there.to_app_bytes, here.to_app_bytes) == (6, 6)
        assert (there.link_unacked_bytes, here.link_waiting_bytes) == (0, 0)


def test_ledgers_of_later_connections_are_kept_for_a_while() -> None:
    class Told:
        to_app_bytes, to_peer_bytes, direction = 3, 4, "accepted"

    class Totals:
        to_app_bytes, to_peer_bytes = 0, 0

    class Context:
        totals = Totals()

    ended = Ended(Context())  # type: ignore[arg-type]
    forgotten: list[int] = []
    for number in range(Ended.MAX_KEPT + 2):
        flow = Told()
        flow.number = number  # type: ignore[attr-defined]
        forgotten += ended.take(flow)  # type: ignore[arg-type]
    assert forgotten == [0, 1]
    assert Totals.to_app_bytes == 0
    assert Context.totals.to_app_bytes == 3 * (Ended.MAX_KEPT + 2)
