"""New connections against small servers: served, refused, reset, closed, nonsense, never answered."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from controller.demo.exchange import command
from controller.demo.prober import PONG, Prober
from controller.demo.report import Loss, Probe

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PING_BYTES = len(command(b"PING"))


@asynccontextmanager
async def serving(server: Server, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """The port of a server that does this to each connection."""
    begun = ended = 0
    all_ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun, ended
        begun += 1
        all_ended.clear()
        try:
            await reader.readexactly(PING_BYTES)
            await server(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the prober had enough of us
        finally:
            writer.close()
            ended += 1
            if begun == ended:
                all_ended.set()

    listener = await asyncio.start_server(serve, host, 0)
    async with listener:
        yield int(listener.sockets[0].getsockname()[1])
        await asyncio.wait_for(all_ended.wait(), 30)


async def probes(port: int, host: str = "127.0.0.1", patience: float = 30.0, limit: float = 5.0) -> list[Probe]:
    """A few probes of that port."""
    prober = Prober(host, port, 0.005, limit)
    prober.start()
    await asyncio.sleep(0.05)  # the length of the run, at least
    while len(prober.probes) + len(prober._under_way) < 4:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.005)
    await prober.finish(time.monotonic() + patience)
    assert prober.failed == sum(probe.loss is not None for probe in prober.probes)
    return prober.probes


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(PONG[:3])
    await writer.drain()
    await asyncio.sleep(0.002)
    writer.write(PONG[3:])
    await writer.drain()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_served(host: str) -> None:
    if host == "::1" and not _has_ipv6():
        pytest.skip("no IPv6 on this machine's loopback")
    async with serving(answer, host) as port:
        found = await probes(port, host)
    assert len(found) >= 4
    for probe in found:
        assert probe.loss is None
        assert probe.began <= probe.connected <= probe.served  # type: ignore[operator]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends the connection without a word."""


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"-NOAUTH\r\n")
    await writer.drain()


async def wait(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize(
    ("server", "loss"), [(close, "closed"), (reset, "reset"), (babble, "corrupt"), (wait, "timeout")]
)
async def test_not_served(server: Server, loss: Loss) -> None:
    async with serving(server) as port:
        found = await probes(port, patience=0.1 if server is wait else 30.0)
    assert {probe.loss for probe in found} == {loss}
    assert all(probe.served is None and probe.connected is not None for probe in found)


async def test_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = await probes(unused.getsockname()[1])
    assert {(probe.connected, probe.loss) for probe in found} == {(None, "refused")}


async def test_unreachable() -> None:
    found = await probes(9, host="255.255.255.255")
    assert {probe.loss for probe in found} <= {"unreachable"}
    assert found


async def test_each_has_its_own_time_limit() -> None:
    async with serving(wait) as port:
        prober = Prober("127.0.0.1", port, 0.005, 0.03)
        prober.start()
        async with asyncio.timeout(30):
            while (timed_out := len(prober.probes)) < 3:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        prober.abandon()
    assert timed_out >= 3
    assert all(probe.loss == "timeout" for probe in prober.probes)


async def test_none_are_begun_when_none_are_wanted() -> None:
    prober = Prober("127.0.0.1", 9, 0.0, 1.0)
    prober.start()
    await prober.finish(time.monotonic())
    assert prober.probes == []
