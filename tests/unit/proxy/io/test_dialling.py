from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Dialling, proof
from proxy.core.wire import Accepted, Challenge, Decoder, Frame, Hello, Join, Refused, encode
from proxy.io import dialling
from proxy.io.context import Context
from proxy.io.dialling import DialledConnection, LinkPool, Lost
from proxy.io.relay import reset
from tests.harness import proxy_parts as parts

TOKEN = bytes(32)
NONCE = bytes(range(32))
CHALLENGE = encode(Challenge(NONCE))
ACCEPTED = encode(Accepted())
HELLO = Hello("m", proof(TOKEN, NONCE, "m"))


class Destination:
    """Takes links, and answers as the test says."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.endpoint = Endpoint(*self.listener.getsockname())
        self.links: list[socket.socket] = []

    async def take(self, said: bytes = CHALLENGE) -> socket.socket:
        async with asyncio.timeout(parts.PATIENCE_SECONDS):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.links.append(sock)
        sock.send(said)
        return sock

    async def hear(self, sock: socket.socket, frames: int) -> list[Frame]:
        decoder, heard = Decoder(), []
        async with asyncio.timeout(parts.PATIENCE_SECONDS):
            while len(heard) < frames:
                decoder.feed(await asyncio.get_running_loop().sock_recv(sock, 4096))
                while len(heard) < frames and (frame := decoder.next()):
                    heard.append(frame)
        return heard

    def close(self) -> None:
        for sock in (self.listener, *self.links):
            sock.close()


class User:
    """A flow that notes what its link tells it."""

    def __init__(self) -> None:
        self.dialled: DialledConnection | None = None
        self.accepted: tuple[int, bytes] | None = None
        self.lost: Lost | None = None

    def link_sendable(self, dialled: DialledConnection) -> None:
        self.dialled = dialled

    def link_accepted(self, received: int, rest: bytes) -> None:
        self.accepted = received, rest

    def link_lost(self, lost: Lost) -> None:
        self.lost = lost


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    async with parts.context() as made:
        yield made


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    made = Destination()
    yield made
    made.close()


def close(context: Context, user: User) -> None:
    assert user.dialled
    assert user.dialled.connection
    context.poller.forget(user.dialled.connection)
    user.dialled.connection.close()


async def test_a_link_need_not_wait_for_the_answers(context: Context, destination: Destination) -> None:
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    pool.ask(Join(7, 1), user)
    sock = await destination.take()
    await parts.eventually(lambda: user.dialled)
    assert user.dialled
    assert user.dialled.connection
    user.dialled.hand_over()
    user.dialled.connection.send(b"MIDS: the link's own stream")
    heard = await destination.hear(sock, 2)
    assert heard == [HELLO, Join(7, 1)]
    sock.send(ACCEPTED)
    await asyncio.sleep(0.01)
    assert user.accepted is None
    sock.send(encode(Accepted(9)) + b"answer")
    await parts.eventually(lambda: user.accepted == (9, b"answer"))
    close(context, user)


async def test_connections_are_greeted_beforehand(context: Context, destination: Destination) -> None:
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    preparing = asyncio.create_task(pool.prepare(2), name="preparing")
    for _ in range(2):
        (await destination.take()).send(ACCEPTED)
    await preparing
    assert pool.idle == 2
    pool.ask(Join(7, 1), user)
    assert user.dialled  # at once
    assert pool.idle == 1
    sock = destination.links[0]
    assert await destination.hear(sock, 2) == [HELLO, Join(7, 1)]
    sock.send(ACCEPTED[:5])
    await asyncio.sleep(0.01)
    sock.send(ACCEPTED[5:])
    await parts.eventually(lambda: user.accepted == (0, b""))
    pool.close()
    close(context, user)


async def test_an_idle_connection_that_breaks_is_not_used(context: Context, destination: Destination) -> None:
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    sock = await destination.take()
    sock.send(ACCEPTED)
    await preparing
    sock.close()
    await parts.eventually(lambda: pool.idle == 0)


async def test_standing_by_replaces_what_is_used_and_ends(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "SPARES", 2)
    monkeypatch.setattr(LinkPool, "SPARE_SECONDS", 0.2)
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    preparing = asyncio.create_task(pool.prepare(3), name="preparing")
    for _ in range(3):
        (await destination.take()).send(ACCEPTED)
    await preparing
    pool.stand_by()
    assert pool.idle == 2
    pool.ask(Join(7, 1), user)
    assert user.dialled
    assert pool.idle == 1
    (await destination.take()).send(ACCEPTED)
    await parts.eventually(lambda: pool.idle == 2)
    await parts.eventually(lambda: pool.idle == 0)
    user.dialled.abandon()


async def test_one_made_anew_is_none_of_the_idle_ones(context: Context, destination: Destination) -> None:
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    (await destination.take()).send(ACCEPTED)
    await preparing
    pool.ask(Join(7, 1), user, fresh=True).abandon()
    assert pool.idle == 1
    pool.close()


async def refused_by(destination: Destination, context: Context, answer: bytes) -> ProxyError:
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    sock = await destination.take(answer)
    if not answer:
        reset(sock)
    with pytest.raises(ProxyError) as raised:
        await preparing
    assert raised.value.code is Code.LINK_FAILED
    return raised.value


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (CHALLENGE + encode(Refused("forbidden", "go away")), "forbidden: go away"),
        (encode(Refused("forbidden", "go away")), "forbidden: go away"),
        (b"HTTP/1.0 400", "not a Midstream link"),
        (ACCEPTED, "out of turn"),
        (CHALLENGE + encode(Join(1, 1)), "out of turn"),
        (CHALLENGE + b"MIDS\x01\x04\x00\x00", "another version"),
        (b"", "reset"),
    ],
)
async def test_preparing_says_why_it_failed(
    context: Context, destination: Destination, answer: bytes, words: str
) -> None:
    assert words in (await refused_by(destination, context, answer)).message


async def test_nobody_there(context: Context, destination: Destination) -> None:
    destination.listener.close()
    with pytest.raises(ProxyError, match="Connection refused"):
        await LinkPool(context, destination.endpoint, "m", TOKEN).prepare(1)
    with pytest.raises(ProxyError, match="unreachable"):
        await LinkPool(context, Endpoint("255.255.255.255", 1), "m", TOKEN).prepare(1)


async def test_nobody_answers(context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinkPool, "PREPARE_SECONDS", 0.05)
    with pytest.raises(ProxyError, match="no answer in time"):
        await LinkPool(context, destination.endpoint, "m", TOKEN).prepare(1)


async def test_an_answer_is_not_waited_for_without_end(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "GREET_SECONDS", 0.05)
    user = User()
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7, 1), user)
    await parts.eventually(lambda: user.lost)
    assert user.lost == Lost("no answer in time")
    assert not user.lost.final


async def test_a_port_that_is_closed_is_told(context: Context, destination: Destination) -> None:
    destination.listener.close()
    user = User()
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7, 1), user)
    await parts.eventually(lambda: user.lost)
    assert user.lost == Lost("Connection refused", port_closed=True)


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        (encode(Refused("conflict", "no flow 7")), True),
        (encode(Refused("shutting_down", "the proxy is ending")), False),
        (b"garbage", False),
        (None, False),
    ],
)
async def test_a_loss_after_the_link_was_named(
    context: Context, destination: Destination, answer: bytes | None, final: bool
) -> None:
    user = User()
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7, 1), user)
    sock = await destination.take()
    await destination.hear(sock, 2)
    if answer:
        sock.send(answer)
    sock.close()
    await parts.eventually(lambda: user.lost)
    assert user.lost
    assert user.lost.final == final
    assert user.dialled
    assert user.dialled.state is Dialling.REFUSED


async def test_an_abandoned_connection_tells_nobody(context: Context, destination: Destination) -> None:
    user = User()
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7, 1), user).abandon()
    await asyncio.sleep(0.02)
    assert (user.dialled, user.lost) == (None, None)
