from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Dialling
from proxy.core.wire import Accepted, Decoder, Frame, Hello, Join, Refused, encode
from proxy.io.context import Context
from proxy.io.link import DialledLink, LinkPool
from proxy.io.relay import reset
from tests.harness import proxy_parts as parts

TOKEN = bytes(32)
ACCEPTED = encode(Accepted())


class Destination:
    """Takes links, and answers as the test says."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.endpoint = Endpoint(*self.listener.getsockname())
        self.links: list[socket.socket] = []

    async def take(self) -> socket.socket:
        async with asyncio.timeout(parts.PATIENCE_SECONDS):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.links.append(sock)
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
        self.link: DialledLink | None = None
        self.rest: bytes | None = None
        self.lost: tuple[str, bool] | None = None

    def link_sendable(self, link: DialledLink) -> None:
        self.link = link

    def link_accepted(self, rest: bytes) -> None:
        self.rest = rest

    def link_lost(self, why: str, sent: bool) -> None:
        self.lost = why, sent


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    async with parts.context() as made:
        yield made


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    made = Destination()
    yield made
    made.close()


def close(user: User) -> None:
    assert user.link
    user.link.close()


async def test_a_flow_need_not_wait_for_any_answer(context: Context, destination: Destination) -> None:
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    pool.ask(Join(7), user)
    sock = await destination.take()
    await parts.eventually(lambda: user.link)
    assert user.link
    user.link.sock.send(b"MIDS: the flow's own bytes")
    heard = await destination.hear(sock, 2)
    assert heard == [Hello("m", TOKEN), Join(7)]
    sock.send(ACCEPTED)
    await asyncio.sleep(0.01)
    assert user.rest is None
    sock.send(ACCEPTED + b"answer")
    await parts.eventually(lambda: user.rest == b"answer")
    close(user)


async def test_links_are_greeted_beforehand(context: Context, destination: Destination) -> None:
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    preparing = asyncio.create_task(pool.prepare(2), name="preparing")
    for _ in range(2):
        (await destination.take()).send(ACCEPTED)
    await preparing
    assert pool.idle == 2
    pool.ask(Join(7), user)
    assert user.link  # at once
    assert pool.idle == 1
    sock = destination.links[0]
    assert await destination.hear(sock, 2) == [Hello("m", TOKEN), Join(7)]
    sock.send(ACCEPTED[:5])
    await asyncio.sleep(0.01)
    sock.send(ACCEPTED[5:])
    await parts.eventually(lambda: user.rest == b"")
    pool.close()
    close(user)


async def test_an_idle_link_that_breaks_is_not_used(context: Context, destination: Destination) -> None:
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    sock = await destination.take()
    sock.send(ACCEPTED)
    await preparing
    sock.close()
    await parts.eventually(lambda: pool.idle == 0)


async def refused_by(destination: Destination, context: Context, answer: bytes) -> ProxyError:
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    sock = await destination.take()
    if answer:
        sock.send(answer)
    else:
        reset(sock)
    with pytest.raises(ProxyError) as raised:
        await preparing
    assert raised.value.code is Code.LINK_FAILED
    return raised.value


async def test_preparing_says_why_it_failed(context: Context, destination: Destination) -> None:
    assert (
        "forbidden: go away"
        in (await refused_by(destination, context, encode(Refused("forbidden", "go away")))).message
    )
    assert "not a Midstream link" in (await refused_by(destination, context, b"HTTP/1.0 400")).message
    assert "out of turn" in (await refused_by(destination, context, encode(Join(1)))).message
    assert "reset" in (await refused_by(destination, context, b"")).message


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


async def test_a_loss_before_anything_was_sent_may_be_tried_again(context: Context, destination: Destination) -> None:
    destination.listener.close()
    user = User()
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7), user)
    await parts.eventually(lambda: user.lost)
    assert user.lost == ("Connection refused", False)


@pytest.mark.parametrize("answer", [encode(Refused("conflict", "no flow 7")), b"garbage", None])
async def test_a_loss_afterwards_may_not(context: Context, destination: Destination, answer: bytes | None) -> None:
    user = User()
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7), user)
    sock = await destination.take()
    await destination.hear(sock, 2)
    if answer:
        sock.send(answer)
    sock.close()
    await parts.eventually(lambda: user.lost)
    assert user.lost
    assert user.lost[1]
    assert user.link
    assert user.link.state is Dialling.REFUSED
    close(user)


async def test_an_abandoned_link_tells_nobody(context: Context, destination: Destination) -> None:
    user = User()
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7), user).abandon()
    await asyncio.sleep(0.02)
    assert (user.link, user.lost) == (None, None)
