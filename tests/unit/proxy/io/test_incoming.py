from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.core.wire import NO_FLOW, Accepted, Frame, Join, Open, Refused, Resume, Switch, encode
from proxy.io import incoming
from proxy.io.accepted import AcceptedLink
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.dialled import answers, dial, greeted

pytestmark = pytest.mark.usefixtures("welcoming")


async def test_a_hello_that_was_overheard_is_of_no_use(plane: Plane) -> None:
    """It proves that the token is known for one connection's challenge only."""
    async with await (await dial(plane)).challenged() as first, await (await dial(plane)).challenged() as second:
        first.sock.send(first.hello())
        assert await answers(first, 1) == [Accepted()]
        second.sock.send(first.hello())
        (refused,) = await answers(second, 2)
        assert isinstance(refused, Refused)
        assert refused.code == "forbidden"
        assert len(plane.acceptor._known) == 1  # the first one is not disturbed


@pytest.mark.parametrize("frame", [Join(5, 1), Switch(5, 1), Resume(5, 1, 0)])
async def test_a_flow_or_link_that_is_not_here(plane: Plane, frame: Frame) -> None:
    async with await greeted(plane, encode(frame)) as dialled:
        accepted, refused = await answers(dialled, 3)
        assert accepted == Accepted()
        assert isinstance(refused, Refused)
        assert refused.code == "conflict"


async def test_a_link_may_come_before_its_flow_until_the_workload_runs(plane: Plane) -> None:
    """Those that nobody has taken by then are closed."""
    migration = plane.inbound["m"]
    async with await greeted(plane, encode(Join(NO_FLOW, 7))) as early:
        assert await answers(early, 2) == [Accepted(), Accepted()]
        assert list(migration.links) == [7]
        plane.resume("m")
        assert (
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(early.sock, 1), parts.PATIENCE_SECONDS) == b""
        )
    assert not migration.links
    async with await greeted(plane, encode(Join(NO_FLOW, 8))) as late:
        refused = (await answers(late, 2))[1]
        assert isinstance(refused, Refused)
        assert refused.code == "wrong_state"


async def test_the_number_of_a_connection_that_was_not_wanted_back_is_free(plane: Plane) -> None:
    """The next socket with that descriptor is read again."""
    async with await greeted(plane, encode(Join(NO_FLOW, 7))) as dialled:
        await answers(dialled, 2)
        (link,) = plane.inbound["m"].links.values()
        assert isinstance(link, AcceptedLink)
        migration = plane.inbound.pop("m")
        assert link.come_back
        descriptor = link._line.connection.fileno() if link._line.connection else -1
        link._leave()
        link.come_back(True)
        assert descriptor not in plane.context.poller._watched
        plane.inbound["m"] = migration


async def test_a_connection_that_cannot_be_opened(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = Open(5, 1, parts.Endpoint("127.0.0.1", 1), parts.Endpoint(*server.getsockname()))
    mixed = Open(6, 2, parts.Endpoint("::1", 1), parts.Endpoint("127.0.0.1", 1))
    for frame, code in ((nobody, "leg_not_built"), (mixed, "bad_request")):
        async with await greeted(plane, encode(frame)) as dialled:
            refused = (await answers(dialled, 2))[1]
            assert isinstance(refused, Refused)
            assert refused.code == code
    await parts.eventually(lambda: not plane.context.links)


async def test_silence_ends(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "GREETING_SECONDS", 0.05)
    async with await (await dial(plane)).challenged() as dialled:
        (frame,) = await answers(dialled, 2)
        assert isinstance(frame, Refused)
        assert frame.code == "timeout"


async def test_a_link_that_hangs_up_is_forgotten(plane: Plane) -> None:
    hanging, resetting = await dial(plane), await dial(plane)
    for each in (hanging, resetting):
        each.sock.send(b"MI")
    hanging.sock.close()
    reset = (await resetting.challenged()).sock
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await asyncio.sleep(0.02)
    reset.close()
    await parts.eventually(lambda: not plane.acceptor._strangers)
