from __future__ import annotations

import asyncio
import errno
import socket
import struct

import pytest

from proxy.core.flow import State
from proxy.core.stream import HEADER, WINDOW_BYTES, Mark
from proxy.io.plane import Plane
from proxy.io.relay import reset
from tests.harness import proxy_parts as parts
from tests.harness.breaking import WHOLE, cutting
from tests.harness.broken import Broken, breaks, moved, prepared_over

pytestmark = [parts.NEEDS_ROOT, parts.BOTH_CARRIERS]


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
        await prepared_over(plane, network)
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
        await prepared_over(plane, network)
        stuck, free = moved(plane, 2)
        sent = await fill(stuck.peer)
        flow = plane.outbound["m"].flows[stuck.legs[0].flow]
        assert flow.path.link
        await parts.eventually(lambda: flow.path.link and not flow.path.link.has_room)
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
