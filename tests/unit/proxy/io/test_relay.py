from __future__ import annotations

import asyncio
import ctypes
import mmap
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.io.context import Context
from proxy.io.relay import COPY_BYTES, SCRATCH_BYTES, Giver, Scratch, Taker, discard, finish, make_ready, reset
from proxy.sys import options
from tests.harness import proxy_parts as parts


class Link:
    """Takes what it is given, as long as it has room."""

    def __init__(self, context: Context) -> None:
        self.room = 1 << 20
        self.given = b""
        self._scratch = context.scratch

    def give(self, size: int) -> bool:
        self.given += bytes(self._scratch.body[:size])
        self.room -= size
        return self.has_room

    @property
    def has_room(self) -> bool:
        return self.room > 0


class Giving:
    """writer -> [leg, giver, link]"""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.writer, self.leg = parts.nonblocking_pair()
        self.link = Link(context)
        self.said: list[str] = []
        self.giver = Giver(
            context.poller,
            context.scratch,
            self.leg,
            self.link,
            lambda: self.said.append("ended"),
            lambda: self.said.append("failed"),
        )

    def close(self) -> None:
        self.giver.stop()
        self.context.poller.forget(self.leg)
        self.writer.close()
        self.leg.close()


@pytest.fixture
async def giving(context: Context) -> AsyncIterator[Giving]:
    made = Giving(context)
    yield made
    made.close()


async def test_bytes_and_the_end_are_given(giving: Giving) -> None:
    giving.giver.start()
    giving.writer.send(b"hello")
    await parts.eventually(lambda: giving.link.given == b"hello")
    finish(giving.writer)
    await parts.eventually(lambda: giving.said == ["ended"])
    assert not giving.giver.running


async def test_nothing_is_read_while_there_is_no_room(giving: Giving) -> None:
    giving.link.room = 5
    giving.giver.start()
    giving.writer.send(b"hello")
    await parts.eventually(lambda: giving.link.given == b"hello")
    giving.writer.send(b" world")
    giving.giver.go_on()
    await asyncio.sleep(0.01)
    assert giving.link.given == b"hello"
    giving.link.room = 10
    giving.giver.go_on()
    await parts.eventually(lambda: giving.link.given == b"hello world")


async def test_room_that_has_gone_meanwhile_is_no_end(giving: Giving) -> None:
    giving.giver.start()
    giving.link.room = 0
    giving.writer.send(b"hello")
    await asyncio.sleep(0.02)
    assert giving.said == []
    giving.link.room = 10
    giving.giver.go_on()
    await parts.eventually(lambda: giving.link.given == b"hello")


async def test_a_reset_of_the_leg_that_is_read(giving: Giving) -> None:
    giving.giver.start()
    reset(giving.writer)
    await parts.eventually(lambda: giving.said == ["failed"])


async def test_a_stopped_giver_reads_nothing(giving: Giving) -> None:
    giving.giver.start()
    giving.giver.stop()
    giving.writer.send(b"hello")
    giving.giver.go_on()
    await asyncio.sleep(0.01)
    assert giving.link.given == b""


class Taking:
    """[link, taker, leg] -> reader"""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.leg, self.reader = parts.nonblocking_pair()
        self.handed = 0
        self.failed = False
        self.taker = Taker(context.poller, self._on_handed)

    def _on_handed(self, size: int) -> None:
        self.handed += size

    def start(self) -> None:
        self.taker.start(self.leg, self._on_failed)

    def _on_failed(self) -> None:
        self.failed = True

    def take(self, *pieces: bytes) -> None:
        scratch = [bytearray(piece) for piece in pieces]
        self.taker.take([memoryview(piece) for piece in scratch])
        for piece in scratch:
            piece[:] = bytes(len(piece))  # they are good for the call only

    def close(self) -> None:
        self.taker.stop()
        self.context.poller.forget(self.leg)
        self.leg.close()
        self.reader.close()


@pytest.fixture
async def taking(context: Context) -> AsyncIterator[Taking]:
    made = Taking(context)
    yield made
    made.close()


async def test_what_comes_is_handed_on(taking: Taking) -> None:
    taking.take(b"bef", b"ore ")
    assert taking.handed == 0
    taking.start()
    taking.take(b"and ", b"after")
    assert await parts.read(taking.reader, 16) == b"before and after"
    assert taking.handed == taking.taker.moved == 16


async def test_what_the_leg_does_not_take_waits_for_it(taking: Taking) -> None:
    taking.start()
    sizes = [5 << 20, 3 << 20, 1 << 20]
    for number, size in enumerate(sizes):
        taking.take(bytes([number]) * size, b"|")
    assert taking.handed < sum(sizes)
    expected = b"".join(bytes([number]) * size + b"|" for number, size in enumerate(sizes))
    assert await parts.read(taking.reader, len(expected)) == expected
    assert taking.handed == len(expected)
    taking.take(b"more")
    assert await parts.read(taking.reader, 4) == b"more"


async def test_a_leg_that_was_reset_takes_no_more(taking: Taking) -> None:
    taking.start()
    reset(taking.reader)
    await asyncio.sleep(0.01)
    taking.take(b"lost", b"too")
    assert taking.failed
    taking.take(b"and this")
    assert (taking.handed, taking.taker.moved) == (15, 0)


async def test_a_leg_that_is_reset_while_bytes_wait_for_it(taking: Taking) -> None:
    taking.start()
    taking.take(bytes(16 << 20), b"rest")
    reset(taking.reader)
    await parts.eventually(lambda: taking.failed)
    assert taking.handed == (16 << 20) + 4 > taking.taker.moved


async def test_a_stopped_taker_drops_what_is_left(taking: Taking) -> None:
    taking.take(b"early")
    taking.start()
    taking.take(bytes(16 << 20))
    moved = taking.taker.moved
    taking.taker.stop()
    taking.take(b"late")
    assert taking.handed == (16 << 20) + 9
    assert len(await parts.read(taking.reader, moved)) == moved


def test_long_reads_keep_their_buffer_and_it_comes_back() -> None:
    scratch = Scratch()
    first = scratch.view.obj
    assert isinstance(scratch.keep(COPY_BYTES), bytes)
    assert scratch.view.obj is first
    kept = scratch.keep(COPY_BYTES + 1)
    assert isinstance(kept, memoryview)
    assert kept.obj is first
    assert scratch.view.obj is not first
    scratch.give_back([kept])
    scratch.keep(COPY_BYTES + 1)
    assert scratch.view.obj is first


def test_what_is_read_and_sent_in_bulk_begins_well_within_a_page() -> None:
    """Where the kernel's copies are fast on every processor; of each buffer."""
    scratch, kept = Scratch(), []
    for _ in range(3):
        for view in (scratch.view, scratch.body):
            address = ctypes.addressof(ctypes.c_char.from_buffer(view))
            assert 32 <= address % mmap.PAGESIZE <= mmap.PAGESIZE // 2
        kept.append(scratch.keep(SCRATCH_BYTES))


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
        two.setsockopt(socket.SOL_SOCKET, options.SO_TIMESTAMPING, 1 << 1)
        make_ready(two)
        assert not two.getblocking()
        assert two.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        assert two.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK) == 0
        assert two.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert two.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[:4] == bytes(4)
        assert two.getsockopt(socket.SOL_SOCKET, options.SO_TIMESTAMPING) == 0


def test_there_is_nothing_to_finish_on_a_dead_socket() -> None:
    with socket.socket() as sock:
        finish(sock)


async def test_many_small_pieces_go_in_order(taking: Taking) -> None:
    taking.start()
    pieces = [number.to_bytes(4, "big") for number in range(3000)]
    taking.take(*pieces)
    expected = b"".join(pieces)
    assert await parts.read(taking.reader, len(expected)) == expected
    assert taking.handed == len(expected)
