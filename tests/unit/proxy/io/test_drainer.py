from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.io.context import Context
from proxy.io.drainer import Drainer
from tests.harness import proxy_parts as parts


def fill(sock: socket.socket) -> None:
    try:
        while True:
            sock.send(bytes(1 << 20))
    except BlockingIOError:
        return


def drain(sock: socket.socket) -> None:
    try:
        while sock.recv(1 << 20):
            pass
    except BlockingIOError:
        return


async def test_a_drain_is_told_when_everything_is_acknowledged(context: Context) -> None:
    one, two = parts.nonblocking_pair()
    with one, two:
        fill(one)
        told: list[bool] = []
        context.drainer.wait(one, lambda: told.append(True))
        await asyncio.sleep(0.05)
        assert not told
        await parts.eventually(lambda: drain(two) or told)
        assert told == [True]


async def test_a_connection_that_is_gone_is_drained(context: Context) -> None:
    one, two = parts.nonblocking_pair()
    with one:
        fill(one)
        told: list[bool] = []
        context.drainer.wait(one, lambda: told.append(True))
        two.close()  # with bytes unread: a reset
        await parts.eventually(lambda: told)


async def test_a_reset_waits_for_the_bytes_before_it(context: Context) -> None:
    one, two = parts.nonblocking_pair()
    with two:
        one.send(b"last words")
        context.drainer.reset(one)
        await parts.eventually(lambda: one.fileno() < 0)
        assert two.recv(20) == b"last words"
        with pytest.raises(ConnectionResetError):
            two.recv(1)


async def test_but_not_for_ever(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context.drainer, "RESET_SECONDS", 0.05)
    one, two = parts.nonblocking_pair()
    with two:
        fill(one)
        context.drainer.reset(one)
        assert one.fileno() >= 0
        await parts.eventually(lambda: one.fileno() < 0)


async def test_a_reset_does_not_overtake_what_is_in_flight(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other end had offered a window, and has no room any more: a RST behind that would not be its next byte."""
    monkeypatch.setattr(context.drainer, "RESET_SECONDS", 0.02)
    one, two = parts.nonblocking_pair()
    with two:
        two.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2000)
        one.send(bytes(1 << 20))
        context.drainer.reset(one)
        await asyncio.sleep(0.2)
        assert one.fileno() >= 0
        with pytest.raises(ConnectionResetError):
            await parts.read(two, 1 << 20)


async def test_the_end_resets_what_was_to_be_reset(context: Context) -> None:
    ones = [parts.nonblocking_pair() for _ in range(2)]
    for one, _ in ones:
        fill(one)
    context.drainer.reset(ones[0][0])
    context.drainer.wait(ones[1][0], lambda: pytest.fail("told"))
    context.drainer.close()
    assert ones[0][0].fileno() < 0
    for sock in (ones[0][1], *ones[1]):
        sock.close()


async def test_a_forgotten_drain_is_not_told(context: Context) -> None:
    one, two = parts.nonblocking_pair()
    with one, two:
        fill(one)
        context.drainer.wait(one, lambda: pytest.fail("told"))
        context.drainer.forget(one)
        drain(two)
        await asyncio.sleep(0.05)


async def test_those_that_come_all_the_time_put_off_nobody(context: Context) -> None:
    """Short connections, each of which ends soon after the last one."""
    pairs = [parts.nonblocking_pair() for _ in range(40)]
    told: list[int] = []
    for number, (one, _) in enumerate(pairs):
        one.send(b"last words")
        context.drainer.wait(one, lambda number=number: told.append(number))
        if told:
            break
        await asyncio.sleep(Drainer.SOONEST_SECONDS / 4)
    assert 0 in told
    for pair in pairs:
        for sock in pair:
            context.drainer.forget(sock)
            sock.close()
