from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.core.handshake import proof
from proxy.core.wire import Accepted, Challenge, Decoder, Frame, Hello, Join, Open, Refused, encode
from proxy.io import acceptor
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts

HELLO = encode(Hello("m", bytes.fromhex(parts.TOKEN)))


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with parts.plane() as made:
        await parts.prepared(made)
        made.release_outbound("m")
        yield made


async def dial(plane: Plane, said: bytes = b"") -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    endpoint = parts.link_endpoint(plane)
    await asyncio.get_running_loop().sock_connect(sock, (endpoint.host, endpoint.port))
    if said:
        sock.send(said)
    return sock


async def answers(sock: socket.socket, frames: int) -> list[Frame]:
    """The answers, and then the end where there are fewer."""
    decoder, heard = Decoder(), []
    async with asyncio.timeout(parts.PATIENCE_SECONDS):
        while len(heard) < frames and (data := await asyncio.get_running_loop().sock_recv(sock, 4096)):
            decoder.feed(data)
            while frame := decoder.next():
                heard.append(frame)
    return heard


async def test_a_greeted_link_may_stay(plane: Plane) -> None:
    with await dial(plane, HELLO[:10]) as sock:
        await asyncio.sleep(0.01)
        sock.send(HELLO[10:])
        assert await answers(sock, 1) == [Accepted()]
        assert len(plane.acceptor._known) == 1
        plane.release_inbound("m")  # its migration is gone, so is the link
        assert await answers(sock, 1) == []


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (b"GET /", "bad_request", "wire_magic"),
        (encode(Join(1)), "bad_request", "wire_order"),
        (encode(Hello("m", bytes(32))), "forbidden", "forbidden"),
        (encode(Hello("n", bytes.fromhex(parts.TOKEN))), "forbidden", "forbidden"),
    ],
)
async def test_a_stranger_is_refused_counted_and_logged_once(
    plane: Plane, caplog: pytest.LogCaptureFixture, said: bytes, code: str, reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with await dial(plane, said) as sock:
                (frame,) = await answers(sock, 2)
                assert isinstance(frame, Refused)
                assert frame.code == code
    assert plane.context.totals.links_refused == {reason: 3}
    assert len(caplog.records) == 1
    assert not plane.acceptor._strangers


async def test_a_flow_that_nobody_waits_for(plane: Plane) -> None:
    with await dial(plane, HELLO + encode(Join(5))) as sock:
        frames = await answers(sock, 3)
        assert [type(frame) for frame in frames] == [Accepted, Refused]


async def test_a_connection_that_cannot_be_opened(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = Open(5, parts.Endpoint("127.0.0.1", 1), parts.Endpoint(*server.getsockname()))
    mixed = Open(6, parts.Endpoint("::1", 1), parts.Endpoint("127.0.0.1", 1))
    for frame, code in ((nobody, "leg_not_built"), (mixed, "bad_request")):
        with await dial(plane, HELLO + encode(frame)) as sock:
            refused = (await answers(sock, 2))[1]
            assert isinstance(refused, Refused)
            assert refused.code == code


async def test_silence_ends(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "GREETING_SECONDS", 0.05)
    with await dial(plane) as sock:
        (frame,) = await answers(sock, 2)
        assert isinstance(frame, Refused)
        assert frame.code == "timeout"


async def test_a_link_that_hangs_up_is_forgotten(plane: Plane) -> None:
    (await dial(plane, b"MI")).close()
    reset = await dial(plane, b"MI")
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await asyncio.sleep(0.02)
    reset.close()
    await parts.eventually(lambda: not plane.acceptor._strangers)


async def test_strangers_are_limited_and_the_others_wait(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "MAX_STRANGERS", 2)
    socks = [await dial(plane) for _ in range(4)]
    await parts.eventually(lambda: len(plane.acceptor._strangers) == 2)
    await asyncio.sleep(0.02)
    assert len(plane.acceptor._strangers) == 2
    for sock in socks:
        sock.send(HELLO)
    for sock in socks:
        assert await answers(sock, 1) == [Accepted()]
        sock.close()
    await parts.eventually(lambda: not plane.acceptor._known)


async def test_the_end_closes_every_link(plane: Plane) -> None:
    with await dial(plane) as stranger, await dial(plane, HELLO) as known:
        assert await answers(known, 1) == [Accepted()]
        plane.acceptor.close()
        assert await answers(stranger, 1) == []
        assert await answers(known, 1) == []
