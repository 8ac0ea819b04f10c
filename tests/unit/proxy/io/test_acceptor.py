from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.core.wire import Accepted, Hello, Join, Refused, encode
from proxy.io import acceptor, lending
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.dialled import answers, dial, greeted

pytestmark = pytest.mark.usefixtures("welcoming")


async def test_a_greeted_link_may_stay(plane: Plane) -> None:
    async with await dial(plane) as dialled:
        hello = (await dialled.challenged()).hello()
        dialled.sock.send(hello[:10])
        await asyncio.sleep(0.01)
        dialled.sock.send(hello[10:])
        assert await answers(dialled, 1) == [Accepted()]
        assert len(plane.acceptor._known) == 1
        plane.release_inbound("m")  # its migration is gone, so is the link
        assert await answers(dialled, 1) == []


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (b"GET /", "bad_request", "wire_magic"),
        (encode(Join(1, 1)), "bad_request", "wire_order"),
        (encode(Hello("m", bytes(32))), "forbidden", "forbidden"),
        (encode(Hello("m", bytes.fromhex(parts.TOKEN))), "forbidden", "forbidden"),
        (encode(Hello("n", bytes(32))), "forbidden", "forbidden"),
    ],
)
async def test_a_stranger_is_refused_counted_and_logged_once(
    plane: Plane, caplog: pytest.LogCaptureFixture, said: bytes, code: str, reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            async with await (await dial(plane)).challenged() as dialled:
                dialled.sock.send(said)
                (frame,) = await answers(dialled, 2)
                assert isinstance(frame, Refused)
                assert frame.code == code
    assert plane.context.totals.links_refused == {reason: 3}
    assert len(caplog.records) == 1
    assert not plane.acceptor._strangers


async def test_strangers_are_limited_and_the_others_wait(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "MAX_STRANGERS", 2)
    dialled = [await dial(plane) for _ in range(4)]
    await parts.eventually(lambda: len(plane.acceptor._strangers) == 2)
    await asyncio.sleep(0.02)
    assert len(plane.acceptor._strangers) == 2
    for each in dialled:
        each.sock.send((await each.challenged()).hello())
        assert await answers(each, 1) == [Accepted()]
        each.sock.close()
    await parts.eventually(lambda: not plane.acceptor._known)


async def test_the_end_closes_every_link(plane: Plane) -> None:
    async with await (await dial(plane)).challenged() as stranger, await greeted(plane) as known:
        assert await answers(known, 1) == [Accepted()]
        plane.acceptor.close()
        assert await answers(stranger, 1) == []
        assert await answers(known, 1) == []


async def test_without_a_descriptor_they_wait_in_the_backlog(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level-triggered listener would be looked at for ever."""
    spare = [0]
    monkeypatch.setattr(lending, "COUNT_SECONDS", -1.0)
    monkeypatch.setattr(plane.context.lending, "_count", lambda: spare[0])
    async with await dial(plane) as dialled:
        await parts.eventually(lambda: plane.acceptor.wanted == 1)
        assert not plane.acceptor._listening
        spare[0] = 1000
        await dialled.challenged()
    await parts.eventually(lambda: plane.acceptor._listening and not plane.acceptor._strangers)
