from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import Code, ProxyError
from proxy.core.link import State
from proxy.core.wire import NO_FLOW, Join, Refused, encode
from proxy.io.context import Context
from proxy.io.pool import LinkPool
from proxy.io.reserved import ReservedLinks
from tests.harness import proxy_parts as parts
from tests.harness.link_ends import ACCEPTED, TOKEN, Destination


@pytest.fixture
def reserved(context: Context, destination: Destination) -> ReservedLinks:
    return ReservedLinks(context, LinkPool(context, destination.endpoint, "m", TOKEN))


def preparing(reserved: ReservedLinks, count: int) -> asyncio.Task[None]:
    return asyncio.create_task(reserved.prepare(count), name="reserve")


async def answer(destination: Destination, said: bytes = ACCEPTED) -> None:
    """The next connection, up to what is said to its JOIN."""
    sock = await destination.take()
    sock.send(ACCEPTED)
    _, join = await destination.hear(sock, 2)
    assert isinstance(join, Join)
    assert join.flow == NO_FLOW
    sock.send(said)


async def test_each_is_for_one_flow(reserved: ReservedLinks, destination: Destination) -> None:
    task = preparing(reserved, 2)
    for _ in range(2):
        await answer(destination)
    await task
    assert reserved.ready == 2
    first, second = reserved.take(1), reserved.take(2)
    assert first
    assert second
    assert first.number != second.number
    assert reserved.take(3) is None
    for link in (first, second):
        link.close()


async def test_one_that_broke_is_for_nobody(reserved: ReservedLinks, destination: Destination) -> None:
    task = preparing(reserved, 1)
    await answer(destination)
    await task
    (link,) = reserved._ready
    destination.links[0].close()
    await parts.eventually(lambda: link.state is State.BROKEN)
    link.lose("it was given up")
    assert reserved.take(1) is None


async def test_a_destination_that_says_no(reserved: ReservedLinks, destination: Destination) -> None:
    task = preparing(reserved, 2)
    await answer(destination)
    await answer(destination, encode(Refused("wrong_state", "it runs here already")))
    with pytest.raises(ProxyError) as raised:
        await task
    assert raised.value.code is Code.LINK_FAILED
    assert "it runs here already" in raised.value.message
    reserved.close()


async def test_none_is_left_of_those_that_are_made(
    reserved: ReservedLinks, destination: Destination, context: Context
) -> None:
    task = preparing(reserved, 2)
    await answer(destination)
    await parts.eventually(lambda: reserved.ready == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reserved.close()
    assert (reserved.ready, context.links) == (0, set())


async def test_not_too_many_at_once(
    reserved: ReservedLinks, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "AT_ONCE", 1)
    task = preparing(reserved, 2)
    for made in (1, 2):
        await answer(destination)
        assert len(destination.links) == made
    await task
    reserved.close()
