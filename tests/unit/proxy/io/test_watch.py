"""The proxies that keep a workload's former addresses hear of its end, and of nothing else."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from proxy.api import Endpoint, PrepareInbound, Switch
from proxy.core.handshake import Accepting
from proxy.core.wire import Refused, Watch, encode
from proxy.io.adopted import AdoptedSocket
from proxy.io.context import Context
from proxy.io.plane import Plane
from proxy.io.pool import LinkPool
from proxy.io.watch import ENDED, EndWatch
from tests.harness import proxy_parts as parts
from tests.harness.dialled import answers, dial
from tests.harness.link_ends import ACCEPTED, HELLO, TOKEN, Destination


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndWatch, "SOONEST_SECONDS", 0.01)
    monkeypatch.setattr(EndWatch, "LATEST_SECONDS", 0.02)


class Watched:
    """A watch, and how often it has said that the workload has ended."""

    def __init__(self, context: Context, whom: Endpoint, token: bytes = TOKEN) -> None:
        self.links = LinkPool(context, whom, "m", token)
        self.ends = 0
        self.watch = EndWatch(context, self.links, self._on_ended)

    def _on_ended(self) -> None:
        self.ends += 1


async def test_it_hears_of_the_end_once(context: Context, destination: Destination) -> None:
    watched = Watched(context, destination.endpoint)
    sock = await destination.take()
    assert await destination.hear(sock, 2) == [HELLO, Watch()]
    sock.send(ACCEPTED)
    sock.send(encode(Refused(ENDED, "it has ended")))
    await parts.eventually(lambda: watched.ends)
    assert (watched.ends, watched.watch._dialled, watched.watch._timer) == (1, None, None)


@pytest.mark.parametrize(
    "said",
    [b"", ACCEPTED, ACCEPTED + ACCEPTED, encode(Refused("forbidden", "?")), encode(Refused("shutting_down", ""))],
)
async def test_whatever_else_it_hears_is_no_end(context: Context, destination: Destination, said: bytes) -> None:
    watched = Watched(context, destination.endpoint)
    for _ in range(3):
        sock = await destination.take()
        assert await destination.hear(sock, 2) == [HELLO, Watch()]
        sock.send(said)
        sock.shutdown(socket.SHUT_WR)
    assert not watched.ends
    watched.watch.close()


async def test_it_goes_on_asking_where_there_was_no_descriptor(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def no_descriptor(_: LinkPool) -> None:
        asked.append(1)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(LinkPool, "_dial", no_descriptor)
        watched = Watched(context, destination.endpoint)
        await parts.eventually(lambda: len(asked) > 1)
    await destination.take()
    watched.watch.close()


@pytest.mark.usefixtures("welcoming")
async def test_the_acceptor_says_it_to_those_who_wait_and_to_those_who_come_later(plane: Plane) -> None:
    token = bytes.fromhex(parts.TOKEN)
    waiting = [Watched(plane.context, parts.link_endpoint(plane), token) for _ in range(2)]
    await parts.eventually(lambda: watching(plane) == ["m", "m"])
    assert plane.end("another") == 0
    assert plane.end("m") == 2
    await parts.eventually(lambda: [each.ends for each in waiting] == [1, 1])
    late = Watched(plane.context, parts.link_endpoint(plane), token)
    await parts.eventually(lambda: late.ends)
    assert not plane.acceptor._known
    assert not plane.context.totals.links_refused


@pytest.mark.usefixtures("welcoming")
async def test_of_a_migration_that_it_does_not_know_any_more_too(plane: Plane) -> None:
    """As a proxy that was started anew since."""
    plane.end("n")
    async with await (await dial(plane)).challenged() as dialled:
        dialled.sock.send(dialled.hello("n"))
        (frame,) = await answers(dialled, 1)
        assert isinstance(frame, Refused)
        assert frame.code == ENDED


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@parts.NEEDS_ROOT
@pytest.mark.usefixtures("prepared")
async def test_adopted_listeners_are_kept_until_then(plane: Plane, listener: socket.socket) -> None:
    at = keep(plane, listener)
    plane.repoint("m")
    await parts.eventually(lambda: watching(plane) == ["m"])
    assert [view.target for view in plane.listeners()] == ["m"]
    plane.end("m")
    await parts.eventually(lambda: not plane.listeners())
    with socket.socket() as successor:
        listener.close()
        successor.bind(at)


@parts.NEEDS_ROOT
@pytest.mark.usefixtures("prepared")
async def test_it_is_watched_where_it_has_moved_on_to(plane: Plane, listener: socket.socket) -> None:
    """Here there are two planes in one: home again, and yet it is elsewhere."""
    keep(plane, listener)
    plane.repoint("m")
    plane.prepare_inbound("n", PrepareInbound(parts.TOKEN, follows="m"))
    wanted = Switch("m", "n", parts.TOKEN, parts.link_endpoint(plane), parts.READDRESS)
    await plane.outbound["m"].switch(wanted, home=False)
    await parts.eventually(lambda: watching(plane) == ["n"])
    plane.end("m")
    assert plane.listeners()
    plane.end("n")
    await parts.eventually(lambda: not plane.listeners())


def watching(plane: Plane) -> list[str]:
    """Which workloads' ends are waited for."""
    known = plane.acceptor._known
    return [each.migration.name for each in known if each.migration and each.state is Accepting.WATCHING]


def keep(plane: Plane, listener: socket.socket) -> tuple[str, int]:
    """Have the plane adopt it, for the migration "m"."""
    at: tuple[str, int] = listener.getsockname()
    held = AdoptedSocket(9, "listener", Endpoint(*at), Endpoint("0.0.0.0", 0))
    plane.outbound["m"].adopt([held], [listener.dup()])
    return at
