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
LOAD_PORT, LOAD_PAUSE_SECONDS = 7299, 0.004
ALWAYS = 2
"""Connections of a puppet under load: one over which it is told what to do, and one that streams both ways."""


@contextmanager
def listener_of(stage: Scene):
    """A server in the client's pod."""
    server = in_network(stage.client, lambda: socket.create_server((stage.client.address, PORT)))
    server.settimeout(30)
    with server:
        yield server


def accepted(
    stage: Scene, told: Puppet, name: str = "sock", port: int = PORT, address: str = "", six: bool = False
) -> socket.socket:
    """A connection of the client's that the puppet has accepted as `name`; `six`: by an IPv6 listener."""
    if not told.do(f"'server{port}' in globals()"):
        more = ", family=socket.AF_INET6, dualstack_ipv6=True" if six else ""
        told.do(f"server{port} = socket.create_server(('{'::' if six else ''}', {port}){more})")
    sock = stage.connect(stage.client, address or stage.a.address, port)
    told.do(f"{name} = server{port}.accept()[0]")
    return sock


def witness(stage: Scene, told: Puppet) -> Duplex:
    """Another connection that streams both ways and is not what is tried; at the puppet's end it is `pump`."""
    sock = accepted(stage, told, "other")
    told.do(f"pump = Duplex(other, {WITNESS_PAUSE_SECONDS})")
    return Duplex(sock, WITNESS_PAUSE_SECONDS)


def load(stage: Scene, told: Puppet) -> Duplex:
    """A witness that leaves the processors to what is tried; at the puppet's end it is `load`."""
    sock = accepted(stage, told, "loaded", LOAD_PORT)
    told.do(f"load = Duplex(loaded, {LOAD_PAUSE_SECONDS})")
    return Duplex(sock, LOAD_PAUSE_SECONDS)


async def finish(told: Puppet, client: Duplex, theirs: str = "pump") -> None:
    """Lets both ends flow on, then ends both and compares what was said with what was heard."""
    before = client.got
    for _ in range(3000):
        if client.got > before + 100_000:
            break
        await asyncio.sleep(0.01)
    assert client.got > before, client.trouble
    await asyncio.to_thread(client.end)
    await asyncio.to_thread(told.do, f"{theirs}.end()")
    sent, got, trouble = await asyncio.to_thread(told.do, f"{theirs}.counts()")
    assert (await asyncio.to_thread(client.counts), trouble) == ([got, sent, ""], "")
