from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from proxy.io.context import Context
from proxy.io.line import Line
from proxy.io.relay import reset
from tests.harness import proxy_parts as parts

MUCH = bytes(range(256)) * 40_000
"""More than two sockets' buffers take."""


class Ends:
    """A line on one end of a connection, and the other end."""

    def __init__(self, context: Context) -> None:
        here, self.there = parts.nonblocking_pair()
        self.line = Line(context.poller, self.drained, self.broke)
        self.line.connection = here
        self.drains = 0
        self.reasons: list[str] = []

    def drained(self) -> None:
        self.drains += 1

    def broke(self, reason: str) -> None:
        self.reasons.append(reason)
        self.line.drop()

    def close(self) -> None:
        self.line.drop()
        self.there.close()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    async with parts.context() as context:
        made = Ends(context)
        yield made
        made.close()


async def test_what_does_not_go_at_once_goes_in_order(ends: Ends) -> None:
    line, whole = ends.line, memoryview(MUCH)
    sent = line.send(whole)
    assert 0 < sent < len(MUCH)
    line.queue(whole[sent:])
    assert line.pending
    assert line.send(memoryview(b"overtakes")) == 0
    line.say(b", then this")
    assert await parts.read(ends.there, len(MUCH) + 11) == MUCH + b", then this"
    await parts.eventually(lambda: not line.pending)
    assert ends.drains == 1


async def test_the_answer_goes_before_what_was_queued(ends: Ends) -> None:
    ends.line.mute = True
    assert ends.line.send(memoryview(b"early")) == 0
    ends.line.say(b"stream")
    ends.line.flush()
    ends.line.answer(b"answer, ")
    assert await parts.read(ends.there, 14) == b"answer, stream"


async def test_a_break_is_told_wherever_it_is_met(ends: Ends) -> None:
    reset(ends.there)
    await parts.eventually(lambda: not ends.line.send(memoryview(b"x")) and ends.reasons)
    assert ends.line.connection is None
    assert len(ends.reasons) == 1
    ends.line.flush()
    ends.line.end()
    ends.line.answer(b"nobody is there")
    ends.line.read(lambda: None)


async def test_a_break_is_told_while_something_waits(ends: Ends) -> None:
    ends.line.say(MUCH)
    reset(ends.there)
    await parts.eventually(lambda: ends.reasons)
    assert not ends.line.pending


async def test_it_ends_and_it_is_left(ends: Ends) -> None:
    ends.line.end()
    assert await parts.read(ends.there, 1) == b""
    connection = ends.line.leave()
    assert isinstance(connection, socket.socket)
    assert connection.fileno() >= 0
    assert ends.line.connection is None
    connection.close()


async def test_behind_the_last_frame_nothing_goes_over_the_connection(ends: Ends) -> None:
    ends.line.say(MUCH, last=True)
    ends.line.say(b"more")
    ends.line.queue(memoryview(b"more"))
    assert await parts.read(ends.there, len(MUCH)) == MUCH
    await parts.eventually(lambda: not ends.line.pending)
    assert ends.line.send(b"more") == 0
    assert ends.drains == 1
    ends.line.drop()
    assert not ends.line.shut
