from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path

import pytest

from proxy.core.handshake import Dialling
from proxy.core.wire import Accepted, Join, Refused, encode
from proxy.io import dialling
from proxy.io.connection import Tls, TlsConnection, Tray
from proxy.io.context import Context
from proxy.io.dialling import DialledConnection, Lost
from proxy.io.pool import LinkPool
from tests.harness import proxy_parts as parts
from tests.harness.link_ends import ACCEPTED, HELLO, TOKEN, Destination, User
from tests.harness.proxy_process import certified


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
    user.close(context)


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


async def test_tls_that_cannot_begin_leaves_nothing_watched(
    context: Context, destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is reset in that moment: TLS has the socket and closes it, and its number is soon another's."""

    def fail(self: Tls, sock: socket.socket, *_: object) -> None:
        socket.socket(fileno=sock.detach()).close()
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    context.tls = Tls(certified(tmp_path, "a", "127.0.0.1"))
    monkeypatch.setattr(Tls, "dialled", fail)
    user, before = User(), len(context.poller._watched)
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7, 1), user)
    await parts.eventually(lambda: user.lost)
    assert len(context.poller._watched) == before


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
    LinkPool(context, destination.endpoint, "m", TOKEN).ask(Join(7, 1), user)
    assert user.given
    user.given.abandon()
    await asyncio.sleep(0.02)
    assert (user.dialled, user.lost) == (None, None)


async def test_of_many_that_began_without_a_session_one_is_asked_for_it(
    context: Context, destination: Destination
) -> None:
    pool, asked = LinkPool(context, destination.endpoint, "m", TOKEN), []

    class Tls:
        session_reused = False
        read = write = None

        @property
        def session(self) -> object:
            asked.append(self)
            return asked[-1]

    made = [DialledConnection(context, pool) for _ in range(3)]
    for one in made:
        one.connection = TlsConnection(one._sock, Tray(), Tls())
        one._greeted()
    assert pool.session is asked[0]
    assert len(asked) == 1
    for one in made:
        one.connection = None
        one.abandon()
