"""A migration from this plane to itself: adopted flows come back as app legs on the same machine."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import msgspec
import pytest

from proxy.api import Endpoint, Leg, PrepareOutbound
from proxy.core.alias import is_alias
from proxy.core.errors import Code, ProxyError
from proxy.core.ledger import TcpState
from proxy.core.migration import Outbound
from proxy.io import outbound
from proxy.io.adopted import AdoptedSocket
from proxy.io.outbound import OutboundMigration
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.proxy_image import Image

pytestmark = [parts.NEEDS_ROOT, pytest.mark.usefixtures("prepared")]


def listener_of(sock: socket.socket, flow: int = 9) -> AdoptedSocket:
    return AdoptedSocket(flow, "listener", Endpoint(*sock.getsockname()[:2]), Endpoint("0.0.0.0", 0))


def adopt(migration: OutboundMigration, image: Image) -> Leg:
    (leg,) = migration.adopt([parts.wanted(image)], [image.sock.dup()])
    return leg


async def test_an_adopted_socket_is_untouched_and_out_of_repair(plane: Plane) -> None:
    peer, app = parts.tcp_pair()
    with peer, app:
        peer.sendall(b"unread")
        image = Image(app)
        peer.sendall(b" and held")
        leg = adopt(plane.outbound["m"], image)
        assert leg.peer == Endpoint(*peer.getsockname())
        assert leg.app == Endpoint("127.0.0.2", app.getsockname()[1])
        (line,) = plane.outbound_ledger("m")
        await parts.eventually(lambda: plane.outbound_ledger("m")[0].held_bytes == 9)
        assert (line.unread_bytes, line.state) == (6, "held")
        assert adopt(plane.outbound["m"], image) == leg  # said twice
        assert plane.release_outbound("m").flows == 1
        assert app.recv(100) == b"unread and held"
        assert app.getblocking()


@dataclass
class AppLeg:
    """Of a flow whose app leg is here."""

    number: int
    via: str = "the source"


@pytest.mark.parametrize("closed", [False, True])
async def test_a_socket_is_of_the_flow_whose_app_leg_is_its_other_end(plane: Plane, closed: bool) -> None:
    """One that is closed has none any more: if there is one with its ends, the peer has come again from its port."""
    peer, app = parts.tcp_pair()
    with peer, app:
        plane.context.legs[Endpoint(*app.getsockname()), Endpoint(*app.getpeername())] = AppLeg(4711)
        if closed:
            app.shutdown(socket.SHUT_WR)
        image = Image(app)
        if closed:
            peer.shutdown(socket.SHUT_WR)
            await parts.eventually(lambda: app.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TcpState.CLOSE)
        leg = adopt(plane.outbound["m"], image)
        assert leg.flow == (image.flow if closed else 4711)
        assert is_alias(leg.app.host)
        plane.release_outbound("m")
        plane.context.legs.clear()


async def test_of_a_flow_that_is_said_again_the_last_image_counts(plane: Plane) -> None:
    """CRIU had to dump once more, and the peer went on meanwhile."""
    peer, app = parts.tcp_pair()
    with peer, app:
        image = Image(app)
        first = adopt(plane.outbound["m"], image)
        peer.sendall(b"unread by now")
        await parts.eventually(lambda: plane.outbound_ledger("m")[0].held_bytes == 13)
        later = Image(app)
        later.flow = image.flow
        leg = adopt(plane.outbound["m"], later)
        assert (leg.flow, leg.link) == (first.flow, first.link)
        assert leg.snd_seq == (first.snd_seq + 13) % 2**32
        (line,) = plane.outbound_ledger("m")
        assert (line.unread_bytes, line.held_bytes) == (13, 0)
        assert plane.release_outbound("m").flows == 1
        assert app.recv(100) == b"unread by now"


async def test_bytes_that_came_while_criu_looked_at_the_socket_are_held(plane: Plane) -> None:
    """The image says where the queue ends after them, and that it is empty."""
    peer, app = parts.tcp_pair()
    with peer, app:
        expected = Image(app).live.rcv_nxt
        peer.sendall(b"in between")
        await parts.eventually(lambda: Image(app).live.unread == 10)
        image = Image(app)
        image.live = msgspec.structs.replace(image.live, unread=0)
        assert adopt(plane.outbound["m"], image).snd_seq == expected
        (line,) = plane.outbound_ledger("m")
        assert (line.unread_bytes, line.held_bytes) == (0, 10)


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_link_may_break_before_its_flow_is_made(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """As at a rollback, when the destination's proxy was faster."""
    monkeypatch.setattr(outbound, "LATER_SECONDS", 60)
    plane.release_outbound("m")
    await parts.prepared(plane, links=1)
    moved = parts.Moved(plane)
    moved.adopt()
    assert moved.legs[0].link
    for link in [*plane.inbound["m"].links.values()]:
        link.close()
    await asyncio.sleep(0.02)
    if goes_on:
        moved.build()
        moved.commit()
        plane.resume("m")
        plane.repoint("m")
        await moved.become("relaying", "relaying")
    else:
        assert plane.release_outbound("m").flows == 1
    moved.close()


async def test_all_or_none(plane: Plane) -> None:
    peer, app = parts.tcp_pair()
    with peer, app, socket.create_server(("127.0.0.1", 0), backlog=5) as listener, socket.socket() as closed:
        image = Image(app)
        wanted = [parts.wanted(image), listener_of(listener), listener_of(closed, 10)]
        migration = plane.outbound["m"]
        socks = [app.dup(), listener.dup(), closed.dup()]
        closed_kernel = socks[2]
        closed_kernel.close()
        with pytest.raises(ProxyError) as raised:
            migration.adopt(wanted, socks)
        assert raised.value.code is Code.SOCKET_UNUSABLE
        assert migration.flows == migration.addresses.listeners == {}
        assert migration.state is Outbound.PREPARED
        assert listener.getsockopt(6, 11, 104)[28] == 5
        for sock in socks:
            sock.close()


async def test_a_listener_is_accepted_after_the_repoint_only(plane: Plane) -> None:
    plane.resume("m")
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener, socket.create_server(("127.0.0.1", 0)) as new:
        migration = plane.outbound["m"]
        migration.plan = PrepareOutbound(migration.plan.destination, parts.TOKEN, {})
        wanted = listener_of(listener)
        migration.adopt([wanted], [listener.dup()])
        migration.adopt([wanted], [listener.dup()])
        peers = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        assert plane.views() == []
        answer = plane.repoint("m")
        assert (answer.flows, answer.accepted) == (0, 3)
        assert plane.repoint("m") == answer
        listener.close()
        await parts.eventually(lambda: len(migration.flows) == 3)
        assert {flow.direction for flow in migration.flows.values()} == {"accepted"}
        for peer in peers:
            peer.close()
        assert new


async def test_a_repointed_migration_is_not_let_go_of_while_it_relays(plane: Plane) -> None:
    peer, app = parts.tcp_pair()
    with peer, app:
        adopt(plane.outbound["m"], Image(app))
        plane.repoint("m")
        with pytest.raises(ProxyError) as raised:
            plane.release_outbound("m")
        assert raised.value.code is Code.STILL_RELAYED
        assert plane.release_outbound("m", force=True).flows == 1


async def test_a_destination_that_does_not_know_the_flow(plane: Plane) -> None:
    peer, app = parts.tcp_pair()
    with peer, app:
        plane.outbound["m"].links.close()
        adopt(plane.outbound["m"], Image(app))
        plane.repoint("m")
        await parts.eventually(lambda: plane.outbound_ledger("m")[0].state == "reset")
        assert "conflict: no flow" in plane.outbound_ledger("m")[0].error
        assert plane.context.totals.flows_ended == {"reset": 1}
