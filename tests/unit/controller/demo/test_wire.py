"""Endings have names, and an orderly finish is none of them."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Awaitable, Callable

import hiredis
import pytest

from controller.demo.exchange import Asker, Exchange
from controller.demo.report import Loss, Role
from controller.demo.wire import connect, loss_of

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time


class Greeter(Asker):
    """Says hello and expects one OK."""

    role: Role = "counter"

    def hello(self, now: float) -> bytes:
        return self._ask(Exchange(b"hello\r\n", b"+OK\r\n", 1), now)

    turn = goodbye = hello


Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def greeted(server: Server) -> Greeter:
    """What became of a greeter that met this server."""
    stirred, served = asyncio.Event(), asyncio.Event()
    greeter = Greeter("greeter")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server(reader, writer)
        writer.close()
        served.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        wire = await connect(greeter, "127.0.0.1", listener.sockets[0].getsockname()[1], stirred.set)
        while greeter.open and not greeter.idle:
            stirred.clear()
            await asyncio.wait_for(stirred.wait(), 30)
        wire.finish()
        await asyncio.wait_for(served.wait(), 30)
    return greeter


async def test_a_good_answer_and_an_orderly_finish() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"hello\r\n"
        writer.write(b"+OK\r\n")
        assert await reader.read() == b""  # until the greeter finishes

    greeter = await greeted(answer)
    assert (greeter.loss, greeter.wrong, greeter.replies) == (None, 0, 1)


async def test_a_close_is_a_loss() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()

    assert (await greeted(close)).loss == "closed"


async def test_a_reset_is_a_loss() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    assert (await greeted(reset)).loss == "reset"


async def test_what_is_no_resp_is_a_loss() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await writer.drain()

    assert (await greeted(babble)).loss == "corrupt"


async def test_a_refusal_is_a_loss() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        greeter = Greeter("greeter")
        await connect(greeter, "127.0.0.1", unused.getsockname()[1], lambda: None)
    assert greeter.loss == "refused"


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (None, "closed"),
        (ConnectionResetError(errno.ECONNRESET, ""), "reset"),
        (BrokenPipeError(errno.EPIPE, ""), "reset"),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), "refused"),
        (TimeoutError(errno.ETIMEDOUT, ""), "timeout"),
        (TimeoutError(), "timeout"),
        (OSError(errno.EHOSTUNREACH, ""), "unreachable"),
        (hiredis.ProtocolError(), "corrupt"),
    ],
)
def test_every_error_has_a_name(error: BaseException | None, loss: Loss) -> None:
    assert loss_of(error) == loss
