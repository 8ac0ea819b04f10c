"""Links that were reserved before the freeze, and connections that carry one link after the other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from proxy.api import PrepareInbound, PrepareOutbound
from proxy.core.link import State
from proxy.core.stream import Mark, header
from proxy.core.wire import NONCE_BYTES, PROOF_BYTES, Accepted, Challenge, Hello, encode
from proxy.io.adopted import AdoptedSocket
from proxy.io.initiated import InitiatedLink
from proxy.io.plane import Plane
from proxy.io.watch import EndWatch
from tests.harness import proxy_parts as parts
from tests.harness.breaking import WHOLE, Cutter, cutting
from tests.harness.broken import Broken

pytestmark = parts.NEEDS_ROOT

GREETING_BYTES = len(
    encode(Challenge(bytes(NONCE_BYTES))) + encode(Hello("m", bytes(PROOF_BYTES))) + encode(Accepted())
)


@pytest.fixture
async def network(plane: Plane) -> AsyncIterator[Cutter]:
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as made:
        await prepare(plane, made)
        yield made


async def prepare(plane: Plane, network: Cutter, *, spare: bool = False) -> None:
    """One connection: a link already, or a spare one."""
    plane.prepare_inbound("m", PrepareInbound(parts.TOKEN))
    plan = PrepareOutbound(network.endpoint, parts.TOKEN, parts.READDRESS, links=not spare, spare_links=spare)
    await plane.prepare_outbound("m", plan)


@pytest.fixture
async def spare(plane: Plane) -> AsyncIterator[Cutter]:
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as made:
        await prepare(plane, made, spare=True)
        yield made


@pytest.fixture
async def moved(plane: Plane, network: Cutter) -> AsyncIterator[parts.Moved]:
    made = parts.Moved(plane)
    made.adopt()
    yield made
    made.close()


def bound(moved: parts.Moved) -> InitiatedLink:
    (flow,) = moved.plane.outbound["m"].flows.values()
    assert flow._asked
    return flow._asked


async def exchange(moved: parts.Moved) -> None:
    for one, other in ((moved.peer, moved.app), (moved.app, moved.peer)):
        one.send(b"hello")
        assert await parts.read(other, 5) == b"hello"


async def test_an_adopted_flow_is_relayed_without_a_frame(moved: parts.Moved, network: Cutter) -> None:
    assert moved.legs[0].link == bound(moved).number
    moved.build()
    assert moved.states == ("held", "waiting")
    moved.commit()
    moved.plane.resume("m")
    moved.plane.repoint("m")
    assert moved.states == ("relaying", "relaying")  # at once
    await exchange(moved)
    assert network.connections == 1


async def test_what_the_workload_says_before_the_repoint_is_kept(moved: parts.Moved) -> None:
    moved.build()
    moved.commit()
    moved.plane.resume("m")
    moved.app.send(b"early")
    await parts.eventually(lambda: bound(moved).incoming.received == 5)
    moved.plane.repoint("m")
    assert await parts.read(moved.peer, 5) == b"early"
    await exchange(moved)


@pytest.mark.parametrize("said", [b"", b"early"])
@pytest.mark.parametrize("built", [False, True])
async def test_its_connection_may_break_before_it_is_needed(
    moved: parts.Moved, network: Cutter, built: bool, said: bytes
) -> None:
    """Nobody dials again before the repoint; then the link is asked for, and goes on where it was."""
    if built or said:
        moved.build()
        moved.commit()
        moved.plane.resume("m")
        moved.app.send(said)
        await parts.eventually(lambda: bound(moved).incoming.received == len(said))
    network.cut()
    await parts.eventually(lambda: bound(moved).state is State.BROKEN)
    if not (built or said):
        await parts.eventually(lambda: not moved.plane.acceptor._known)
        moved.build()
        moved.commit()
        moved.plane.resume("m")
    assert network.connections == 1
    moved.plane.repoint("m")
    assert await parts.read(moved.peer, len(said)) == said
    await exchange(moved)
    await moved.become("relaying", "relaying")
    assert network.connections == 2


@pytest.mark.parametrize("built", [False, True])
async def test_a_rollback_lets_go_of_it_in_silence(
    moved: parts.Moved, built: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if built:
        moved.build()
    plane = moved.plane
    plane.release_outbound("m")
    await parts.eventually(lambda: not plane.acceptor._known)
    plane.release_inbound("m")
    await parts.eventually(lambda: not plane.context.links)
    assert plane.context.totals.links_broken == plane.context.totals.links_refused == {}
    assert not caplog.records


async def test_a_flow_whose_link_made_no_sense_meanwhile_is_not_relayed(moved: parts.Moved) -> None:
    moved.build()
    moved.commit()
    (there,) = moved.plane.inbound["m"].links.values()
    assert there._line.connection
    there._line.connection.send(header(Mark.FREE, 0, 0))
    await parts.eventually(lambda: bound(moved).state is State.OVER)
    moved.plane.resume("m")
    moved.plane.repoint("m")
    await parts.eventually(lambda: moved.states[0] == "reset")


async def test_a_link_that_the_acceptor_gave_up_in_the_hold_is_asked_for_anew(moved: parts.Moved) -> None:
    """As it does with one that broke a hold's limit ago, when nobody was there to end the hold."""
    moved.build()
    moved.commit()
    (there,) = moved.plane.inbound["m"].links.values()
    there.lose("it was not made again")
    await parts.eventually(lambda: bound(moved).state is State.BROKEN)
    moved.plane.resume("m")
    moved.plane.repoint("m")
    await moved.become("relaying", "relaying")
    await exchange(moved)


# A destination that is not there any more


async def test_a_link_that_broke_in_the_hold_and_cannot_be_made_again_ends_its_flow(
    moved: parts.Moved, network: Cutter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InitiatedLink, "GONE_SECONDS", 0.1)
    moved.build()
    moved.commit()
    network.stop_listening()
    network.cut()
    await parts.eventually(lambda: bound(moved).state is State.BROKEN)
    moved.plane.repoint("m")
    with pytest.raises(ConnectionResetError):
        await parts.read(moved.peer, 1)
    (line,) = moved.plane.outbound_ledger("m")
    assert (line.state, line.error) == ("reset", "Connection refused")


async def test_a_proxy_that_has_gone_is_not_waited_for(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InitiatedLink, "GONE_SECONDS", 0.1)
    broken.network.stop_listening()
    broken.network.cut()
    with pytest.raises(ConnectionResetError):
        await parts.read(broken.flow.peer, 1)
    (line,) = broken.plane.outbound_ledger("m")
    assert (line.state, line.error) == ("reset", "Connection refused")


async def test_a_link_that_the_other_proxy_does_not_know_is_given_up_at_once(broken: Broken) -> None:
    broken.plane.inbound["m"].links.clear()
    broken.network.cut()
    with pytest.raises(ConnectionResetError):
        await parts.read(broken.flow.peer, 1)
    (line,) = broken.plane.outbound_ledger("m")
    assert "no link" in line.error


# One connection, one link after the other


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is had to hear of the workload's end."""
    monkeypatch.setattr(EndWatch, "SOONEST_SECONDS", 60.0)


@contextmanager
def newcomers(plane: Plane) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A listener that the proxy holds, and the restored one that those who come to it are brought to."""
    plane.resume("m")
    with socket.create_server(("127.0.0.1", 0)) as old, socket.socket() as new:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        new.bind((parts.READDRESS["127.0.0.1"], old.getsockname()[1]))
        new.listen()
        new.setblocking(False)
        held = AdoptedSocket(9, "listener", parts.Endpoint(*old.getsockname()), parts.Endpoint("0.0.0.0", 0))
        plane.outbound["m"].adopt([held], [old.dup()])
        plane.repoint("m")
        yield old, new


async def served(old: socket.socket, new: socket.socket) -> None:
    """One who comes to the old address, asks, is answered, and goes."""
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        peer.setblocking(False)
        peer.bind(("127.0.0.1", 0))
        async with asyncio.timeout(parts.PATIENCE_SECONDS):
            await loop.sock_connect(peer, old.getsockname())
            app, _ = await loop.sock_accept(new)
        with app:
            peer.send(b"question")
            peer.shutdown(socket.SHUT_WR)
            assert await parts.read(app, 9) == b"question"
            app.send(b"answer")
            app.shutdown(socket.SHUT_WR)
            assert await parts.read(peer, 7) == b"answer"


@pytest.mark.usefixtures("unwatched")
async def test_a_connection_whose_link_is_over_carries_the_next_one(plane: Plane, spare: Cutter) -> None:
    plane.outbound["m"].links.REFILL_SECONDS = 60.0
    with newcomers(plane) as (old, new):
        for _ in range(3):
            await served(old, new)
            await parts.eventually(lambda: plane.outbound["m"].links.idle == 1 and not plane.context.links)
        assert spare.connections == 1
        assert plane.context.totals.links_refused == plane.context.totals.links_broken == {}


@pytest.mark.usefixtures("spare", "unwatched")
async def test_not_when_the_migration_is_gone(plane: Plane) -> None:
    plane.outbound["m"].links.REFILL_SECONDS = 60.0
    with newcomers(plane) as (old, new):
        await served(old, new)
        plane.inbound.clear()
        over = plane.context
        await parts.eventually(lambda: not (over.links or over.legs) and plane.outbound["m"].links.idle == 0)
        assert not plane.acceptor._known


async def test_every_cut_point_where_one_link_follows_the_other(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the connection breaks, both ends agree which link has ended and which one goes on."""
    monkeypatch.setattr(InitiatedLink, "SOONEST_SECONDS", 0.005)
    whole = await carried_when_cut_after(plane, WHOLE)
    for cut in range(whole // 2 - 30, whole // 2 + 60, 10):
        await carried_when_cut_after(plane, cut)


async def carried_when_cut_after(plane: Plane, cut: int) -> int:
    """Two are served, one after the other; gives how many bytes went over the network after the greeting."""
    greeted = 0
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE if n else GREETING_BYTES + cut) as network:
        await prepare(plane, network, spare=True)
        greeted = network.carried
        assert greeted == GREETING_BYTES
        plane.outbound["m"].links.REFILL_SECONDS = 60.0
        with newcomers(plane) as (old, new):
            for _ in range(2):
                await served(old, new)
            await parts.eventually(lambda: not plane.context.links)
        assert "lost" not in plane.context.totals.links_broken
        plane.release_outbound("m", force=True)
        plane.release_inbound("m", force=True)
    return network.carried - greeted
