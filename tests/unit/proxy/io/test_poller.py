from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import AsyncIterator
from functools import partial

import pytest

from proxy.io.context import Context
from proxy.io.poller import Poller
from proxy.io.relay import reset
from tests.harness import proxy_parts as parts


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    made = Poller(asyncio.get_running_loop())
    yield made
    made.close()


async def test_reading_and_writing(poller: Poller) -> None:
    one, two = socket.socketpair()
    with one, two:
        seen: list[str] = []
        poller.read(one, lambda: seen.append(f"read {one.recv(10)!r}"))
        await asyncio.sleep(0)
        assert seen == []
        two.send(b"x")
        await parts.eventually(lambda: seen == ["read b'x'"])
        poller.write(one, lambda: (seen.append("write"), poller.write(one, None)))
        await parts.eventually(lambda: seen[1:] == ["write"])
        poller.read(one, None)
        two.send(b"y")
        await asyncio.sleep(0.02)
        assert len(seen) == 2
        poller.forget(one)
        poller.forget(one)


async def test_a_reset_is_read_with_what_came_before_it(poller: Poller) -> None:
    """Level-triggered until the error itself is read: the loop's own add_reader would stop after the first call."""
    one, two = parts.nonblocking_pair()
    got: list[bytes] = []

    def read() -> None:
        try:
            got.append(one.recv(2))
        except ConnectionResetError:
            got.append(b"reset")
            poller.forget(one)

    with one:
        two.send(b"abcdef")
        reset(two)
        poller.read(one, read)
        await parts.eventually(lambda: got[-1:] == [b"reset"])
    assert got == [b"ab", b"cd", b"ef", b"reset"]


async def test_a_hangup_is_told_once_and_only_when_nobody_looks(poller: Poller) -> None:
    one, two = parts.nonblocking_pair()
    told: list[str] = []
    with one:
        poller.hangup(one, lambda: told.append("gone"))
        two.send(b"x")
        await asyncio.sleep(0.02)
        assert told == []
        reset(two)
        await parts.eventually(lambda: told == ["gone"])
        await asyncio.sleep(0.02)
        assert told == ["gone"]
        poller.read(one, lambda: (told.append("read"), poller.forget(one)))  # somebody looks again
        await parts.eventually(lambda: told == ["gone", "read"])


SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000


@pytest.mark.parametrize("looks", ["nobody", "a reader", "a writer"])
async def test_a_notice_for_who_has_sent_is_no_event(poller: Poller, looks: str) -> None:
    """The kernel says that a buffer is free again, and calls that an error until somebody takes it."""
    one, two = parts.nonblocking_pair()
    told: list[str] = []
    with one, two:
        one.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        poller.hangup(one, lambda: told.append("gone"))
        if looks == "a reader":
            poller.read(one, lambda: told.append("read"))
        one.send(bytes(1000), MSG_ZEROCOPY)
        if looks == "a writer":
            fill(one)
            poller.write(one, lambda: told.append("write"))
        await asyncio.sleep(0.05)
        assert told == []
        with pytest.raises(BlockingIOError):
            one.recvmsg(0, 0, socket.MSG_ERRQUEUE)
        reset(two)
        await parts.eventually(lambda: told)
        poller.forget(one)


def fill(sock: socket.socket) -> None:
    try:
        while True:
            sock.send(bytes(1 << 20))
    except BlockingIOError:
        return


async def test_a_new_socket_does_not_get_an_old_ones_events(poller: Poller) -> None:
    """Two are ready in one batch; the first to be called closes the other, and opens one with the same number."""
    ones = [socket.socketpair() for _ in range(2)]
    calls: list[str] = []
    fresh: list[socket.socket] = []

    def read(index: int) -> None:
        calls.append("old")
        for sock, _ in ones:
            poller.forget(sock)
        number = ones[1 - index][0].fileno()
        ones[1 - index][0].close()
        while number not in [sock.fileno() for sock in fresh]:
            fresh.extend(socket.socketpair())
        for sock in fresh:
            poller.read(sock, lambda: calls.append("fresh"))

    for index in range(2):
        poller.read(ones[index][0], lambda index=index: read(index))  # type: ignore[misc]
        ones[index][1].send(b"x")
    await parts.eventually(lambda: calls)
    await asyncio.sleep(0.02)
    assert calls == ["old"]
    for sock in [*fresh, *(sock for pair in ones for sock in pair)]:
        if sock.fileno() >= 0:
            poller.forget(sock)
            sock.close()


async def test_the_loop_has_its_turn_however_much_there_is_to_read(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    called: list[int] = []
    for number, (one, two) in enumerate(pairs):
        two.send(b"x")
        poller.read(one, partial(called.append, number))
    for _ in range(3):
        before = len(called)
        await parts.eventually(lambda before=before: len(called) > before)
    assert set(called) == {0, 1, 2}
    for one, two in pairs:
        poller.forget(one)
        one.close()
        two.close()


async def test_one_callbacks_failure_is_nobody_elses(poller: Poller, caplog: pytest.LogCaptureFixture) -> None:
    one, two = socket.socketpair()
    with one, two:

        def fail() -> None:
            poller.read(one, None)
            raise RuntimeError("a bug")

        poller.read(one, fail)
        two.send(b"x")
        with caplog.at_level(logging.ERROR):
            await parts.eventually(lambda: caplog.records)
        assert "a bug" in caplog.text
        poller.forget(one)


async def test_a_context_is_of_its_loop() -> None:
    made = Context.here(parts.KERNEL)
    assert made.loop is asyncio.get_running_loop()
    made.poller.close()


@pytest.mark.parametrize("reads", [True, False])
async def test_what_is_said_beside_the_stream_is_neither_an_end_nor_said_for_ever(poller: Poller, reads: bool) -> None:
    """As of a socket whose workload has sent by MSG_ZEROCOPY, or asks for time stamps."""
    one, two = parts.nonblocking_pair()
    seen: list[bytes] = []
    with one, two:
        one.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        one.send(b"x" * 10000, MSG_ZEROCOPY)
        await parts.eventually(lambda: waits_beside(one))
        poller.hangup(one, lambda: seen.append(b"gone"))
        poller.read(one, (lambda: seen.append(one.recv(9))) if reads else None)
        await parts.eventually(lambda: not waits_beside(one))
        assert seen == []
        two.send(b"more")
        poller.read(one, lambda: seen.append(one.recv(9)))
        await parts.eventually(lambda: seen == [b"more"])
        poller.forget(one)


SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000  # asm-generic/socket.h, linux/socket.h


def waits_beside(sock: socket.socket) -> bool:
    """In the socket's error queue; nothing is read."""
    poll = select.poll()
    poll.register(sock, 0)
    return poll.poll(0) == [(sock.fileno(), select.POLLERR)]
