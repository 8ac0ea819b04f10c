"""Flows that a plane moves to itself over a network that breaks."""

from __future__ import annotations

import asyncio
import socket

from proxy.api import PrepareInbound, PrepareOutbound
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.breaking import Cutter

RELINK_SECONDS = 30.0
"""None is given up because the machine is busy; a test that waits for that says how soon."""


async def prepared_over(plane: Plane, network: Cutter, relink_seconds: float = RELINK_SECONDS) -> None:
    plane.prepare_inbound("m", PrepareInbound(parts.TOKEN, relink_seconds=relink_seconds))
    plan = PrepareOutbound(network.endpoint, parts.TOKEN, parts.READDRESS, relink_seconds=relink_seconds)
    await plane.prepare_outbound("m", plan)


def moved(plane: Plane, flows: int = 1) -> list[parts.Moved]:
    made = [parts.Moved(plane) for _ in range(flows)]
    for each in made:
        each.adopt()
    for each in made:
        each.build()
    for each in made:
        each.commit()
    plane.resume("m")
    plane.repoint("m")
    return made


async def talk(sock: socket.socket, sent: bytes, expected: bytes) -> None:
    """Both directions at once, each with its end."""
    loop = asyncio.get_running_loop()

    async def write() -> None:
        await loop.sock_sendall(sock, sent)
        sock.shutdown(socket.SHUT_WR)

    async def read() -> bytes:
        got = bytearray()
        while data := await loop.sock_recv(sock, 65536):
            got += data
        return bytes(got)

    async with asyncio.timeout(4 * parts.PATIENCE_SECONDS):
        _, got = await asyncio.gather(write(), read())
    assert got == expected


def breaks(plane: Plane) -> dict[str, int]:
    return plane.context.totals.links_broken


class Broken:
    """One flow, both of whose ends have met; its network as the test wants it."""

    def __init__(self, plane: Plane, network: Cutter, flow: parts.Moved) -> None:
        self.plane, self.network, self.flow = plane, network, flow

    async def exchange(self) -> None:
        for one, other in ((self.flow.peer, self.flow.app), (self.flow.app, self.flow.peer)):
            one.send(b"hello")
            assert await parts.read(other, 5) == b"hello"
