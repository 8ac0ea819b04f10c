from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.io.context import Context
from proxy.io.relay import SCRATCH_BYTES, Pump, Scratch, discard, finish, make_ready, reset
from tests.harness import proxy_parts as parts


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    async with parts.context() as made:
        yield made


class Line:
    """writer -> [source, pump, target] -> reader"""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.writer, self.source = parts.nonblocking_pair()
        self.target, self.reader = parts.nonblocking_pair()
        self.said: list[str] = []
        self.pump = Pump(
            context.poller,
            context.scratch,
            self.source,
            self.target,
            lambda: self.said.append("ended"),
            lambda source: self.said.append("source failed" if source else "target failed"),
        )

    def close(self) -> None:
        self.pump.stop()
        for sock in (self.source, self.target):
            if sock.fileno() >= 0:
                self.context.poller.forget(sock)
        for sock in (self.writer, self.source, self.target, self.reader):
            sock.close()


@pytest.fixture
async def line(context: Context) -> AsyncIterator[Line]:
    made = Line(context)
    yield made
    made.close()


async def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    async with asyncio.timeout(parts.PATIENCE_SECONDS):
        while len(data) < size:
            data += await asyncio.get_running_loop().sock_recv(sock, size - len(data))
    return data


async def test_bytes_and_the_end_go_through(line: Line) -> None:
    line.pump.start()
    line.writer.send(b"hello")
    assert await read(line.reader, 5) == b"hello"
    finish(line.writer)
    await parts.eventually(lambda: line.said == ["ended"])
    assert not line.pump.running
    assert line.pump.moved == 5


async def test_what_came_with_the_frame_comes_first(line: Line) -> None:
    line.writer.send(b" world")
    line.pump.start(b"hello")
    assert await read(line.reader, 11) == b"hello world"


async def test_a_slow_reader_pushes_back_to_the_writer(line: Line) -> None:
    """The pump keeps one read at most, the kernel's buffers fill, the writer can send no more; then it all arrives."""
    line.pump.start()
    sent = 0
    for _ in range(400):
        await asyncio.sleep(0.001)
        try:
            sent += line.writer.send(bytes([sent % 251]) * 100_000)
        except BlockingIOError:
            if line.pump.kept_bytes:
                break
    assert 0 < line.pump.kept_bytes <= SCRATCH_BYTES
    finish(line.writer)
    assert len(await read(line.reader, sent)) == sent
    await parts.eventually(lambda: line.said == ["ended"])
    assert line.pump.moved == sent
    assert line.pump.kept_bytes == 0


async def test_a_long_preface_waits_for_the_target(line: Line) -> None:
    preface = bytes(16 << 20)
    line.pump.start(preface)
    assert line.pump.kept_bytes
    assert len(await read(line.reader, len(preface))) == len(preface)
    line.writer.send(b"x")
    assert await read(line.reader, 1) == b"x"


async def test_a_reset_of_the_source(line: Line) -> None:
    line.pump.start()
    reset(line.writer)
    await parts.eventually(lambda: line.said == ["source failed"])


async def test_a_reset_of_the_target(line: Line) -> None:
    line.pump.start()
    reset(line.reader)
    await asyncio.sleep(0.01)
    line.writer.send(b"x")
    await parts.eventually(lambda: line.said == ["target failed"])


async def test_a_reset_of_the_target_while_bytes_wait_for_it(line: Line) -> None:
    line.pump.start(bytes(16 << 20))
    reset(line.reader)
    await parts.eventually(lambda: line.said == ["target failed"])
    assert line.pump.kept_bytes == 0


async def test_a_stopped_pump_lets_go(line: Line) -> None:
    line.pump.start(bytes(16 << 20))
    line.pump.stop()
    line.pump.stop()
    moved = line.pump.moved
    assert len(await read(line.reader, moved)) == moved
    await asyncio.sleep(0.02)
    assert line.pump.moved == moved
    assert line.said == []


async def test_bytes_of_the_image_are_discarded_exactly() -> None:
    one, two = parts.tcp_pair()
    with one, two:
        one.sendall(bytes(1 << 20) + b"after")
        scratch = Scratch()
        left = 1 << 20
        async with asyncio.timeout(parts.PATIENCE_SECONDS):
            while left:
                left -= discard(two, left, scratch)
                await asyncio.sleep(0)
        assert two.recv(100) == b"after"
        assert discard(two, 10, scratch) == 0
        one.close()
        assert discard(two, 10, scratch) == 0


def test_an_adopted_sockets_settings_do_not_disturb() -> None:
    one, two = parts.tcp_pair()
    with one, two:
        two.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1000)
        two.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        two.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\5\0\0\0")
        make_ready(two)
        assert not two.getblocking()
        assert two.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        assert two.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK) == 0
        assert two.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert two.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[:4] == bytes(4)


def test_there_is_nothing_to_finish_on_a_dead_socket() -> None:
    with socket.socket() as sock:
        finish(sock)
