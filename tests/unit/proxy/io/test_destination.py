from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.api import Endpoint, Legs
from proxy.core.flow import Event, State
from proxy.core.stream import HEADER_BYTES, Mark, header
from proxy.core.wire import HEADER, Accepted, Decoder, Frame, Refused
from proxy.io.accepted import AcceptedLink
from proxy.io.destination import DestinationFlow
from proxy.io.plane import Plane
from proxy.sys import repair
from tests.harness import proxy_parts as parts

pytestmark = [parts.NEEDS_ROOT, pytest.mark.usefixtures("prepared")]


class Opened:
    """A connection that the destination is to open towards an application."""

    def __init__(self, plane: Plane, app: Endpoint, number: int = 77, port: int = 4711) -> None:
        self.here, self.there = parts.nonblocking_pair()
        self.migration = plane.inbound["m"]
        self.decoder = Decoder()
        self.migration.open(parts.Open(number, 88, Endpoint("127.0.0.9", port), app), self.link)
        self.flow = self.migration.flows[number]

    def link(self) -> AcceptedLink:
        link = AcceptedLink(self.migration.context, 88, "the source", 10, self.migration.forget_link)
        link.be_mute()
        link.carry(self.here, 0, data(b"first"))
        return link

    async def answer(self) -> Frame | None:
        """And nothing is sent before it."""
        self.decoder.feed(await parts.read(self.there, HEADER.size))
        while not (frame := self.decoder.next()):
            self.decoder.feed(await parts.read(self.there, 1))
        return frame

    def close(self) -> None:
        self.there.close()


def data(payload: bytes) -> bytes:
    return header(Mark.DATA, len(payload), 0) + payload


async def test_a_fresh_leg_comes_from_the_peers_address(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as app:
        opened = Opened(plane, Endpoint(*app.getsockname()))
        assert opened.flow.state is State.CONNECTING
        await parts.eventually(lambda: opened.flow.state is State.RELAYING)
        assert await opened.answer() == Accepted(5)
        sock, peer = app.accept()
        with sock:
            assert peer == ("127.0.0.9", 4711)
            sock.setblocking(False)
            opened.there.send(data(b", second"))
            assert await parts.read(sock, 13) == b"first, second"
            sock.send(b"answer")
            assert (await parts.read(opened.there, HEADER_BYTES + 6)).endswith(b"answer")
        opened.close()


async def test_what_came_before_the_leg_is_connected_is_accounted_for(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as app:
        opened = Opened(plane, Endpoint(*app.getsockname()))
        assert opened.flow.state is State.CONNECTING
        line = opened.flow.ledger_line()
        assert (line.to_app_bytes, line.link_waiting_bytes) == (0, 5)
        opened.there.send(data(b", second"))
        await parts.eventually(lambda: opened.flow.state is State.RELAYING)
        await parts.eventually(lambda: opened.flow.ledger_line().to_app_bytes == 13)
        assert opened.flow.ledger_line().link_waiting_bytes == 0
        opened.close()


async def test_a_peer_that_comes_again_from_the_same_port(plane: Plane) -> None:
    """And is here before its former connection is over: it waits for that, and is routed when that is forgotten."""
    with socket.create_server(("127.0.0.1", 0)) as app:
        former = Opened(plane, Endpoint(*app.getsockname()))
        await parts.eventually(lambda: former.flow.state is State.RELAYING)
        opened = Opened(plane, Endpoint(*app.getsockname()), 78)
        await asyncio.sleep(0.05)
        assert opened.flow.state is State.CONNECTING
        former.flow.tell(Event.RELEASE)
        await parts.eventually(lambda: opened.flow.state is State.RELAYING)
        for _ in range(2):
            sock, peer = app.accept()
            sock.close()
            assert peer == ("127.0.0.9", 4711)
        former.close()
        opened.close()


async def test_but_it_does_not_wait_for_ever(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DestinationFlow, "TAKEN_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as app:
        former = Opened(plane, Endpoint(*app.getsockname()))
        await parts.eventually(lambda: former.flow.state is State.RELAYING)
        opened = Opened(plane, Endpoint(*app.getsockname()), 78)
        await parts.eventually(lambda: opened.flow.is_over)
        assert "Cannot assign requested address" in opened.flow.error
        former.close()
        opened.close()


async def test_who_has_closed_is_told_from_who_has_half_closed(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never ends its side keeps nobody: a kernel alone would forget such a connection, too."""
    monkeypatch.setattr(repair, "ASK_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as app:
        both = [Opened(plane, Endpoint(*app.getsockname()), 77 + number, 4711 + number) for number in range(2)]
        await parts.eventually(lambda: {each.flow.state for each in both} == {State.RELAYING})
        closed, half_closed = [app.accept()[0] for _ in range(2)]
        closed.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)  # for this socket, tcp_fin_timeout
        with half_closed:
            half_closed.shutdown(socket.SHUT_WR)
            assert closed.recv(5, socket.MSG_WAITALL) == b"first"  # unread, it would be a reset
            closed.close()
            await parts.eventually(lambda: {each.flow.state for each in both} == {State.LEG_ENDED})
            await parts.eventually(lambda: both[0].flow.is_over)
            both[1].there.send(data(b", second"))
            half_closed.setblocking(False)
            assert await parts.read(half_closed, 13) == b"first, second"
            assert both[1].flow.state is State.LEG_ENDED
        for each in both:
            each.close()


async def test_an_application_that_does_not_listen(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as app:
        endpoint = Endpoint(*app.getsockname())
    opened = Opened(plane, endpoint)
    await parts.eventually(lambda: opened.flow.is_over)
    assert await opened.answer() == Refused("leg_not_built", opened.flow.error)
    assert opened.flow.error == f"{endpoint}: Connection refused"
    opened.close()


async def test_a_connection_under_way_can_be_released(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as app:
        full = [socket.socket() for _ in range(3)]
        for sock in full:
            sock.setblocking(False)
            sock.connect_ex(app.getsockname())
        opened = Opened(plane, Endpoint(*app.getsockname()))
        await asyncio.sleep(0.02)
        assert plane.resume("m").resumed == 0  # it came before the resume, and is none of its business
        assert opened.flow.state is State.CONNECTING
        plane.release_inbound("m", force=True)
        assert opened.flow.is_over
        opened.close()
        for sock in full:
            sock.close()


async def test_a_link_may_come_before_the_resume(plane: Plane) -> None:
    moved = parts.Moved(plane, before=b"early")
    moved.adopt()
    moved.build()
    moved.commit()
    plane.repoint("m")
    await parts.eventually(lambda: plane.inbound_ledger("m")[0].state == "waiting")
    moved.peer.send(b" late")
    plane.resume("m")
    assert await parts.read(moved.app, 10) == b"early late"
    moved.close()


async def test_a_leg_in_the_way_is_named(plane: Plane) -> None:
    moved = parts.Moved(plane)
    moved.adopt()
    moved.build()
    twin = parts.msgspec.structs.replace(moved.legs[0], flow=1)
    other = parts.msgspec.structs.replace(moved.legs[0], flow=2, peer=Endpoint("127.0.0.1", 1))
    with pytest.raises(parts.ProxyError, match="app leg"):
        plane.build("m", Legs([other, twin]))
    assert [line.flow for line in plane.inbound_ledger("m")] == [moved.legs[0].flow]
    moved.close()
