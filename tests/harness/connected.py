"""Connections between the client's pod and the puppet, which moves: made, streamed over, and ended."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager

from controller.lab.namespaces import in_network
from tests.harness.journeys import Puppet
from tests.harness.moving import Scene
from tests.harness.programs.puppet import Duplex

PORT = 7300
WITNESS_PAUSE_SECONDS = 0.001


@contextmanager
def listener_of(stage: Scene):
    """A server in the client's pod."""
    server = in_network(stage.client, lambda: socket.create_server((stage.client.address, PORT)))
    server.settimeout(10)
    with server:
        yield server


def accepted(stage: Scene, told: Puppet, name: str = "sock", port: int = PORT, address: str = "") -> socket.socket:
    """A connection of the client's that the puppet has accepted as `name`."""
    if not told.do(f"'server{port}' in globals()"):
        told.do(f"server{port} = socket.create_server(('', {port}))")
    sock = stage.connect(stage.client, address or stage.a.address, port)
    told.do(f"{name} = server{port}.accept()[0]")
    return sock


def witness(stage: Scene, told: Puppet) -> Duplex:
    """Another connection that streams both ways and is not what is tried; at the puppet's end it is `pump`."""
    sock = accepted(stage, told, "other")
    told.do(f"pump = Duplex(other, {WITNESS_PAUSE_SECONDS})")
    return Duplex(sock, WITNESS_PAUSE_SECONDS)


async def finish(told: Puppet, client: Duplex) -> None:
    """Lets both ends flow on, then ends both and compares what was said with what was heard."""
    before = client.got
    for _ in range(1000):
        if client.got > before + 100_000:
            break
        await asyncio.sleep(0.01)
    assert client.got > before, client.trouble
    await asyncio.to_thread(client.end)
    await asyncio.to_thread(told.do, "pump.end()")
    theirs = await asyncio.to_thread(told.do, "pump.counts()")
    ours = await asyncio.to_thread(client.counts)
    assert ours[2] == theirs[2] == ""
    assert (ours[0], ours[1]) == (theirs[1], theirs[0])
