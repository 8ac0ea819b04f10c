"""Links that sleep, and are woken from either end, between real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.api import PrepareInbound, PrepareOutbound
from proxy.core.link import State
from proxy.core.stream import MAX_DATA_BYTES, Mark, header
from proxy.io.initiated import InitiatedLink
from proxy.io.link import Link
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.breaking import WHOLE, cutting
from tests.harness.broken import Broken

pytestmark = parts.NEEDS_ROOT


def ends(broken: Broken) -> tuple[Link, Link]:
    """The initiator's and the acceptor's."""
    (there,), (here,) = (side["m"].flows.values() for side in (broken.plane.outbound, broken.plane.inbound))
    assert there.path.link
    assert here.path.link
    return there.path.link, here.path.link


async def put_to_sleep(broken: Broken) -> None:
    here, there = ends(broken)
    await parts.eventually(lambda: here.may_rest)
    here.rest()
    await parts.eventually(lambda: (here.state, there.state) == (State.ASLEEP, State.ASLEEP))


@pytest.fixture
async def asleep(broken: Broken) -> Broken:
    await put_to_sleep(broken)
    return broken


def rung(broken: Broken) -> int:
    bell = broken.plane.outbound["m"].links.bell
    return bell._link.incoming.payload // 8 if bell and bell._link else -1


@parts.BOTH_CARRIERS
async def test_whoever_has_something_to_say_wakes_it(asleep: Broken) -> None:
    for one, other, rings in ((asleep.flow.peer, asleep.flow.app, 0), (asleep.flow.app, asleep.flow.peer, 1)):
        one.send(b"hello")
        assert await parts.read(other, 5) == b"hello"
        await parts.eventually(lambda rings=rings: rung(asleep) == rings)
        await put_to_sleep(asleep)
    assert asleep.plane.context.totals.links_broken == asleep.plane.context.totals.links_refused == {}


async def test_both_at_once(asleep: Broken) -> None:
    await asleep.exchange()


async def test_more_than_a_window_waits_for_it(asleep: Broken) -> None:
    much = bytes(range(256)) * (1 << 14)
    asleep.flow.peer.setblocking(False)
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(asleep.flow.peer, much), name="much")
    assert await parts.read(asleep.flow.app, len(much)) == much
    await sending


@pytest.mark.parametrize("who", ["peer", "app"])
async def test_an_end_wakes_it_and_it_ends(asleep: Broken, who: str) -> None:
    peer, app = asleep.flow.peer, asleep.flow.app
    one, other = (peer, app) if who == "peer" else (app, peer)
    one.shutdown(socket.SHUT_WR)
    assert await parts.read(other, 1) == b""
    await parts.eventually(lambda: ends(asleep)[0].outgoing.over or ends(asleep)[1].outgoing.over)
    await parts.eventually(lambda: ends(asleep)[0].may_rest)
    await put_to_sleep(asleep)  # half closed
    other.send(b"more")
    other.shutdown(socket.SHUT_WR)
    assert await parts.read(one, 5) == b"more"
    await asleep.flow.become("closed", "closed")
    await parts.eventually(lambda: not asleep.plane.context.links)  # nor is there a bell any more


@pytest.mark.parametrize("who", ["peer", "app"])
async def test_a_reset_wakes_it_and_is_passed_on(asleep: Broken, who: str) -> None:
    one, other = (asleep.flow.peer, asleep.flow.app)[:: 1 if who == "peer" else -1]
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    one.close()
    with pytest.raises(ConnectionResetError):
        await parts.read(other, 1)
    await asleep.flow.become("reset", "reset")
    await parts.eventually(lambda: not asleep.plane.context.links)


async def test_what_is_given_while_it_falls_asleep_wakes_it(broken: Broken) -> None:
    here, there = ends(broken)
    here.rest()
    broken.flow.peer.send(b"from the peer")
    broken.flow.app.send(b"from the workload")
    assert await parts.read(broken.flow.app, 13) == b"from the peer"
    assert await parts.read(broken.flow.peer, 17) == b"from the workload"
    assert broken.plane.context.totals.links_lent >= 2
    assert not here.is_over
    assert not there.is_over


async def test_a_busy_one_may_be_put_to_sleep_at_any_time(broken: Broken) -> None:
    much = bytes(range(256)) * (1 << 15)
    loop, socks = asyncio.get_running_loop(), (broken.flow.peer, broken.flow.app)
    while broken.plane.context.totals.links_lent <= 10:  # on a busy machine all of it may have come before
        sending = [asyncio.create_task(loop.sock_sendall(sock, much), name="much") for sock in socks]
        reading = [asyncio.create_task(parts.read(sock, len(much)), name="much") for sock in socks]
        for number in range(50):
            link = ends(broken)[number % 2]
            if link.may_rest:
                link.rest()
            await asyncio.sleep(0.002)
        assert await asyncio.gather(*reading) == [much, much]
        await asyncio.gather(*sending)
    assert broken.plane.context.totals.links_broken == broken.plane.context.totals.links_refused == {}


async def test_the_acceptor_may_ask_for_its_descriptor_back(broken: Broken) -> None:
    here, there = ends(broken)
    before = broken.network.connections
    there.rest()
    await parts.eventually(lambda: (here.state, there.state) == (State.ASLEEP, State.ASLEEP))
    await parts.eventually(lambda: not broken.plane.acceptor._known)
    assert broken.plane.outbound["m"].links.idle == 0
    await broken.exchange()
    assert broken.network.connections == before + 2  # the bell, and another


async def test_a_connection_that_breaks_while_it_is_lent_wakes_nobody(asleep: Broken) -> None:
    asleep.network.cut()
    await parts.eventually(lambda: asleep.plane.context.totals.links_broken.get("resumed", 0) >= 1)  # the bell
    assert [link.state for link in ends(asleep)] == [State.ASLEEP, State.ASLEEP]
    await asleep.exchange()


@pytest.mark.parametrize("end", [0, 1])
async def test_a_connection_that_breaks_while_it_falls_asleep(broken: Broken, end: int) -> None:
    ends(broken)[end].rest()
    broken.network.cut()
    await broken.exchange()
    await put_to_sleep(broken)
    await broken.exchange()


@pytest.mark.parametrize("broken", [0.2], indirect=True)
async def test_a_bell_that_is_lost_takes_those_along_that_sleep(
    asleep: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other proxy has died: nobody would hear of it."""
    monkeypatch.setattr(InitiatedLink, "GONE_SECONDS", 0.1)
    monkeypatch.setattr("proxy.io.accepted.AcceptedLink.GRACE_SECONDS", 0.1)
    asleep.network.stop_listening()
    asleep.network.cut()
    for sock in (asleep.flow.peer, asleep.flow.app):
        with pytest.raises(ConnectionResetError):
            await parts.read(sock, 1)
    await asleep.flow.become("reset", "reset")
    await parts.eventually(lambda: not asleep.plane.context.links)


@pytest.mark.parametrize("broken", [0.2], indirect=True)
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("mark", [Mark.SLEEP, Mark.FREE, Mark.YIELD])
async def test_what_is_said_out_of_turn_ends_the_link(
    broken: Broken, end: int, mark: Mark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.io.accepted.AcceptedLink.GRACE_SECONDS", 0.1)
    link = ends(broken)[end]
    if (end, mark) in ((0, Mark.SLEEP), (1, Mark.YIELD)):
        return  # as it should be
    assert link._line.connection
    link._line.connection.send(header(mark, 0, 0))
    await broken.flow.become("reset", "reset")


async def test_ringing_without_end_is_said_as_it_is_heard(asleep: Broken) -> None:
    bells = asleep.plane.inbound["m"].bells
    _, there = ends(asleep)
    for _ in range(3 * MAX_DATA_BYTES // 8):
        bells._rung[next(iter(bells._bells))].append(1)
    bells._say(next(iter(bells._bells)))
    await asleep.exchange()
    await parts.eventually(lambda: rung(asleep) >= 3 * MAX_DATA_BYTES // 8)
    assert not there.is_over


@pytest.fixture
async def crowd(request: pytest.FixtureRequest, plane: Plane) -> AsyncIterator[list[parts.Moved]]:
    """More flows than links: of six, two have one, or as many as the parameter says."""
    links = getattr(request, "param", 2)
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as network:
        plane.prepare_inbound("m", PrepareInbound(parts.TOKEN, flows=6))
        plan = PrepareOutbound(network.endpoint, parts.TOKEN, parts.READDRESS, links=links, flows=6)
        await plane.prepare_outbound("m", plan)
        flows = [parts.Moved(plane) for _ in range(6)]
        for flow in flows:
            flow.adopt()
            flow.build()
            flow.commit()
        yield flows
        for flow in flows:
            flow.close()


async def test_of_more_flows_than_links_the_others_sleep_from_the_beginning(
    plane: Plane, crowd: list[parts.Moved]
) -> None:
    plane.resume("m")
    plane.repoint("m")
    assert sorted(view.link for view in plane.views()) == [*["asleep"] * 8, *["carrying"] * 4]
    assert {view.state for view in plane.views()} == {"relaying"}
    await hello(crowd)


@pytest.mark.parametrize("crowd", [0], indirect=True)
async def test_all_of_them_may_sleep_from_the_beginning(plane: Plane, crowd: list[parts.Moved]) -> None:
    plane.resume("m")
    plane.repoint("m")
    assert {view.link for view in plane.views()} == {"asleep"}
    await hello(crowd)


async def hello(crowd: list[parts.Moved]) -> None:
    for number, flow in enumerate(crowd):
        one, other = (flow.peer, flow.app) if number % 2 else (flow.app, flow.peer)
        one.send(b"hello")
        assert await parts.read(other, 5) == b"hello"


@pytest.mark.usefixtures("crowd")
async def test_a_rollback_lets_go_of_them_in_silence(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    plane.release_inbound("m")
    plane.release_outbound("m")
    await parts.eventually(lambda: not plane.context.links)
    assert plane.context.totals.links_broken == {}
    assert not caplog.records
