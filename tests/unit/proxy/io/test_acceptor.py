from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.core.handshake import proof
from proxy.core.wire import Accepted, Challenge, Decoder, Frame, Hello, Join, Open, Refused, Resume, Switch, encode
from proxy.io import acceptor, incoming
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with parts.plane() as made:
        await parts.prepared(made)
        made.release_outbound("m")
        yield made


class Dialled:
    """A connection to the acceptor, its challenge heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = Decoder()
        self.nonce = b""

    async def __aenter__(self) -> Dialled:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def challenged(self) -> Dialled:
        (challenge,) = await answers(self, 1)
        assert isinstance(challenge, Challenge)
        self.nonce = challenge.nonce
        return self

    def hello(self, migration: str = "m", token: str = parts.TOKEN) -> bytes:
        return encode(Hello(migration, proof(bytes.fromhex(token), self.nonce, migration)))


async def dial(plane: Plane) -> Dialled:
    sock = socket.socket()
    sock.setblocking(False)
    endpoint = parts.link_endpoint(plane)
    await asyncio.get_running_loop().sock_connect(sock, (endpoint.host, endpoint.port))
    return Dialled(sock)


async def greeted(plane: Plane, said: bytes = b"") -> Dialled:
    """Its hello said, and something more."""
    made = await (await dial(plane)).challenged()
    made.sock.send(made.hello() + said)
    return made


async def answers(dialled: Dialled, frames: int) -> list[Frame]:
    """The answers, and then the end where there are fewer."""
    heard: list[Frame] = []
    async with asyncio.timeout(parts.PATIENCE_SECONDS):
        while len(heard) < frames and (data := await asyncio.get_running_loop().sock_recv(dialled.sock, 4096)):
            dialled.decoder.feed(data)
            while frame := dialled.decoder.next():
                heard.append(frame)
    return heard


async def test_a_greeted_link_may_stay(plane: Plane) -> None:
    async with await dial(plane) as dialled:
        hello = (await dialled.challenged()).hello()
        dialled.sock.send(hello[:10])
        await asyncio.sleep(0.01)
        dialled.sock.send(hello[10:])
        assert await answers(dialled, 1) == [Accepted()]
        assert len(plane.acceptor._known) == 1
        plane.release_inbound("m")  # its migration is gone, so is the link
        assert await answers(dialled, 1) == []


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (b"GET /", "bad_request", "wire_magic"),
        (encode(Join(1, 1)), "bad_request", "wire_order"),
        (encode(Hello("m", bytes(32))), "forbidden", "forbidden"),
        (encode(Hello("m", bytes.fromhex(parts.TOKEN))), "forbidden", "forbidden"),
        (encode(Hello("n", bytes(32))), "forbidden", "forbidden"),
    ],
)
async def test_a_stranger_is_refused_counted_and_logged_once(
    plane: Plane, caplog: pytest.LogCaptureFixture, said: bytes, code: str, reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            async with await (await dial(plane)).challenged() as dialled:
                dialled.sock.send(said)
                (frame,) = await answers(dialled, 2)
                assert isinstance(frame, Refused)
                assert frame.code == code
    assert plane.context.totals.links_refused == {reason: 3}
    assert len(caplog.records) == 1
    assert not plane.acceptor._strangers


async def test_a_hello_that_was_overheard_is_of_no_use(plane: Plane) -> None:
    """It proves that the token is known for one connection's challenge only."""
    async with await (await dial(plane)).challenged() as first, await (await dial(plane)).challenged() as second:
        first.sock.send(first.hello())
        assert await answers(first, 1) == [Accepted()]
        second.sock.send(first.hello())
        (refused,) = await answers(second, 2)
        assert isinstance(refused, Refused)
        assert refused.code == "forbidden"
        assert len(plane.acceptor._known) == 1  # the first one is not disturbed


@pytest.mark.parametrize("frame", [Join(5, 1), Switch(5, 1), Resume(5, 1, 0)])
async def test_a_flow_or_link_that_is_not_here(plane: Plane, frame: Frame) -> None:
    async with await greeted(plane, encode(frame)) as dialled:
        accepted, refused = await answers(dialled, 3)
        assert accepted == Accepted()
        assert isinstance(refused, Refused)
        assert refused.code == "conflict"


async def test_a_connection_that_cannot_be_opened(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = Open(5, 1, parts.Endpoint("127.0.0.1", 1), parts.Endpoint(*server.getsockname()))
    mixed = Open(6, 2, parts.Endpoint("::1", 1), parts.Endpoint("127.0.0.1", 1))
    for frame, code in ((nobody, "leg_not_built"), (mixed, "bad_request")):
        async with await greeted(plane, encode(frame)) as dialled:
            refused = (await answers(dialled, 2))[1]
            assert isinstance(refused, Refused)
            assert refused.code == code
    await parts.eventually(lambda: not plane.context.links)


async def test_silence_ends(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "GREETING_SECONDS", 0.05)
    async with await (await dial(plane)).challenged() as dialled:
        (frame,) = await answers(dialled, 2)
        assert isinstance(frame, Refused)
        assert frame.code == "timeout"


async def test_a_link_that_hangs_up_is_forgotten(plane: Plane) -> None:
    hanging, resetting = await dial(plane), await dial(plane)
    for each in (hanging, resetting):
        each.sock.send(b"MI")
    hanging.sock.close()
    reset = (await resetting.challenged()).sock
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await asyncio.sleep(0.02)
    reset.close()
    await parts.eventually(lambda: not plane.acceptor._strangers)


async def test_strangers_are_limited_and_the_others_wait(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "MAX_STRANGERS", 2)
    dialled = [await dial(plane) for _ in range(4)]
    await parts.eventually(lambda: len(plane.acceptor._strangers) == 2)
    await asyncio.sleep(0.02)
    assert len(plane.acceptor._strangers) == 2
    for each in dialled:
        each.sock.send((await each.challenged()).hello())
        assert await answers(each, 1) == [Accepted()]
        each.sock.close()
    await parts.eventually(lambda: not plane.acceptor._known)


async def test_the_end_closes_every_link(plane: Plane) -> None:
    async with await (await dial(plane)).challenged() as stranger, await greeted(plane) as known:
        assert await answers(known, 1) == [Accepted()]
        plane.acceptor.close()
        assert await answers(stranger, 1) == []
        assert await answers(known, 1) == []
