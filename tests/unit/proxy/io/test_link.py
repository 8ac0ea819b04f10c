"""Flows that a plane moves to itself over a network that breaks."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.api import PrepareInbound, PrepareOutbound
from proxy.core.flow import State
from proxy.core.stream import HEADER, WINDOW_BYTES, Mark
from proxy.io.accepted import AcceptedLink
from proxy.io.connection import Tls
from proxy.io.initiated import InitiatedLink
from proxy.io.plane import Plane
from proxy.io.relay import reset
from tests.harness import proxy_parts as parts
from tests.harness.breaking import WHOLE, Cutter, cutting
from tests.harness.proxy_process import certified

pytestmark = parts.NEEDS_ROOT

RELINK_SECONDS = 2.0


@pytest.fixture(params=["cleartext", "TLS"])
async def plane(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Plane]:
    tls = Tls(certified(tmp_path, "a", "127.0.0.1")) if request.param == "TLS" else None
    async with parts.plane(tls) as made:
        yield made


async def prepared(plane: Plane, network: Cutter, relink_seconds: float = RELINK_SECONDS) -> None:
    plane.prepare_inbound("m", PrepareInbound(parts.TOKEN, relink_seconds=relink_seconds))
    plan = PrepareOutbound(network.endpoint, parts.TOKEN, parts.READDRESS, relink_seconds=relink_seconds)
    await plane.prepare_outbound("m", plan)


def moved(plane: Plane, flows: int = 1) -> list[parts.Moved]:
    made = [parts.Moved(plane) for _ in range(flows)]
    for each in made:
        each.adopt()
    for each in made:
        each.build()
    for each in made:
        each.commit()
    plane.resume("m")
    plane.repoint("m")
    return made


async def talk(sock: socket.socket, sent: bytes, expected: bytes) -> None:
    """Both directions at once, each with its end."""
    loop = asyncio.get_running_loop()

    async def write() -> None:
        await loop.sock_sendall(sock, sent)
        sock.shutdown(socket.SHUT_WR)

    async def read() -> bytes:
        got = bytearray()
        while data := await loop.sock_recv(sock, 65536):
            got += data
        return bytes(got)

    async with asyncio.timeout(4 * parts.PATIENCE_SECONDS):
        _, got = await asyncio.gather(write(), read())
    assert got == expected


def breaks(plane: Plane) -> dict[str, int]:
    return plane.context.totals.links_broken


@pytest.mark.parametrize("most", [6_000, 30_000, 600_000])
async def test_streams_survive_any_cuts(plane: Plane, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection carries up to so many bytes: some are cut in their first frames, some in mid-stream."""
    monkeypatch.setattr(InitiatedLink, "LATEST_SECONDS", 0.1)
    dice = random.Random(most)
    async with cutting(parts.link_endpoint(plane), lambda n: dice.randrange(1, most) if 1 <= n <= 60 else WHOLE) as net:
        await prepared(plane, net, relink_seconds=30)
        flows = moved(plane, 4)
        size = min(2 << 20, 8 * most)
        there, back = dice.randbytes(size), dice.randbytes(size)
        async with asyncio.TaskGroup() as group:
            for each in flows:
                group.create_task(talk(each.peer, there, back), name="peer")
                group.create_task(talk(each.app, back, there), name="app")
        await parts.eventually(lambda: all(line.state == "closed" for line in plane.outbound_ledger("m")))
        await parts.eventually(lambda: not plane.context.links)
        assert breaks(plane)["broken"] >= 2
        assert "lost" not in breaks(plane)
        for line in (*plane.outbound_ledger("m"), *plane.inbound_ledger("m")):
            assert (line.to_app_bytes, line.to_peer_bytes, line.link_unacked_bytes) == (size, size, 0)
        for each in flows:
            each.close()


class Broken:
    """One flow, both of whose ends have met; its network as the test wants it."""

    def __init__(self, plane: Plane, network: Cutter, flow: parts.Moved) -> None:
        self.plane, self.network, self.flow = plane, network, flow

    async def exchange(self) -> None:
        for one, other in ((self.flow.peer, self.flow.app), (self.flow.app, self.flow.peer)):
            one.send(b"hello")
            assert await parts.read(other, 5) == b"hello"


@pytest.fixture
async def broken(plane: Plane) -> AsyncIterator[Broken]:
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as network:
        await prepared(plane, network)
        (flow,) = moved(plane)
        made = Broken(plane, network, flow)
        await made.exchange()
        yield made
        flow.close()


async def test_a_break_while_nothing_is_said(broken: Broken) -> None:
    broken.network.cut()
    await broken.exchange()
    assert breaks(broken.plane)["broken"] == breaks(broken.plane)["resumed"] == 2


async def test_bytes_and_half_closes_said_while_it_is_broken(broken: Broken) -> None:
    broken.network.refusing = True
    broken.network.cut()
    await parts.eventually(lambda: breaks(broken.plane).get("broken") == 2)
    broken.flow.peer.send(b"there")
    broken.flow.peer.shutdown(socket.SHUT_WR)
    broken.flow.app.send(b"back")
    await broken.flow.become("leg_ended", "relaying")
    broken.network.refusing = False
    assert await parts.read(broken.flow.app, 10) == b"there"
    assert await parts.read(broken.flow.peer, 4) == b"back"
    broken.network.cut()
    broken.flow.app.shutdown(socket.SHUT_WR)
    assert await parts.read(broken.flow.peer, 1) == b""
    await broken.flow.become("closed", "closed")
    await parts.eventually(lambda: not broken.plane.context.links)


@pytest.mark.parametrize(("ends", "error"), [(True, errno.EPIPE), (False, errno.ECONNRESET)])
async def test_a_reset_behind_the_streams_end_is_told_from_one_without(broken: Broken, ends: bool, error: int) -> None:
    """As the kernel tells it to whoever writes (K: tcp_reset), even if the relay has written before it has read."""
    app, peer = broken.flow.app, broken.flow.peer
    path = next(iter(broken.plane.outbound["m"].flows.values())).path
    assert path._giver
    path._giver._read(False)
    if ends:
        peer.shutdown(socket.SHUT_WR)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    app.send(b"to nobody")
    await parts.eventually(lambda: path._leg_broken)
    path._giver._read(True)
    await parts.eventually(lambda: app.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 7)  # TCP_CLOSE
    assert app.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == error


@pytest.mark.parametrize("who", ["peer", "app"])
async def test_a_reset_while_it_is_broken_is_still_a_reset(broken: Broken, who: str) -> None:
    broken.network.refusing = True
    broken.network.cut()
    await parts.eventually(lambda: breaks(broken.plane).get("broken") == 2)
    resetting, other = (broken.flow.peer, broken.flow.app) if who == "peer" else (broken.flow.app, broken.flow.peer)
    resetting.send(b"last words")
    await asyncio.sleep(0.02)
    reset(resetting)
    states = ("reset", "relaying") if who == "peer" else ("relaying", "reset")
    await broken.flow.become(*states)
    broken.network.refusing = False
    assert await parts.read(other, 10) == b"last words"
    with pytest.raises(ConnectionResetError):
        await parts.read(other, 1)
    await broken.flow.become("reset", "reset")
    await parts.eventually(lambda: not broken.plane.context.links)


async def test_a_link_that_cannot_be_made_again_is_given_up(
    broken: Broken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(AcceptedLink, "GRACE_SECONDS", 0.5)
    broken.network.refusing = True
    broken.network.cut()
    for sock in (broken.flow.peer, broken.flow.app):
        with pytest.raises(ConnectionResetError):
            await parts.read(sock, 1)
    await broken.flow.become("reset", "reset")
    (line,) = broken.plane.inbound_ledger("m")
    assert line.error.endswith("and it was not made again")
    assert breaks(broken.plane)["lost"] == 2
    assert sum("lost" in record.message for record in caplog.records) == 2


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


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "wire_length"),
        (HEADER.pack(9 << 24, 0), "wire_kind"),
        (HEADER.pack(Mark.ACK << 24, 1 << 40), "wire_offset"),
        (2 * HEADER.pack(Mark.END << 24, 0), "wire_order"),
    ],
)
async def test_a_stream_that_makes_no_sense_ends_its_flow_and_no_other(
    plane: Plane, garbage: bytes, reason: str
) -> None:
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as network:
        await prepared(plane, network)
        bad, good = moved(plane, 2)
        await Broken(plane, network, bad).exchange()
        migration = plane.outbound["m"]
        link = migration.flows[bad.legs[0].flow].path.link
        assert link
        assert link._line.connection
        link._line.connection.send(garbage)
        with pytest.raises(ConnectionResetError):
            await parts.read(bad.app, 1)
        assert plane.context.totals.links_refused == {reason: 1}
        await Broken(plane, network, good).exchange()
        for each in (bad, good):
            each.close()


async def test_a_stuck_direction_stalls_neither_the_other_one_nor_another_flow(plane: Plane) -> None:
    """The peer writes as much as it can and the application reads none of it; what it says itself still arrives."""
    async with cutting(parts.link_endpoint(plane), lambda n: WHOLE) as network:
        await prepared(plane, network)
        stuck, free = moved(plane, 2)
        sent = await fill(stuck.peer)
        flow = plane.outbound["m"].flows[stuck.legs[0].flow]
        assert flow.path.link
        await parts.eventually(lambda: flow.path.link and flow.path.link.room == 0)
        assert flow.ledger_line().link_unacked_bytes <= WINDOW_BYTES
        for _ in range(3):
            await Broken(plane, network, free).exchange()
            stuck.app.send(b"hello")
            assert await parts.read(stuck.peer, 5) == b"hello"
            network.cut()
        assert flow.state is State.RELAYING
        assert len(await parts.read(stuck.app, sent)) == sent
        for each in (stuck, free):
            each.close()


async def fill(sock: socket.socket) -> int:
    """Until nothing has been taken for a while."""
    sent, since = 0, 0
    while since < 10:
        try:
            sent += sock.send(bytes(1 << 18))
            since = 0
        except BlockingIOError:
            since += 1
            await asyncio.sleep(0.02)
    return sent
