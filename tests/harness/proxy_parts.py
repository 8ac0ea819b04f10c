"""Parts of a proxy in the test's own loop: real sockets on lo, and a routing that only notes what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from proxy.api import Endpoint, HoldPolicy, Legs, PrepareInbound, PrepareOutbound
from proxy.core.errors import ProxyError
from proxy.core.wire import Open
from proxy.io.adopted import AdoptedSocket
from proxy.io.connection import Tls
from proxy.io.context import Context
from proxy.io.plane import Plane
from proxy.sys.kernel import Kernel
from proxy.sys.routing import Routing
from tests.harness.proxy_image import Image

__all__ = ["Endpoint", "HoldPolicy", "Open", "ProxyError", "msgspec"]

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="TCP_REPAIR needs CAP_NET_ADMIN")
BOTH_CARRIERS = pytest.mark.parametrize("plane", ["cleartext", "TLS"], indirect=True)
TOKEN = "5a" * 32
PATIENCE_SECONDS = 30.0
KERNEL = Kernel()
READDRESS = {"127.0.0.1": "127.0.0.2"}


class QuietNetlink:
    """Takes everything, does nothing."""

    def __init__(self, protocol: int) -> None:
        self.sent: list[Any] = []

    def send(self, messages: Any) -> None:
        self.sent += messages

    def ask(self, questions: Any) -> list[bytes]:
        """Nothing that is asked for exists."""
        return [b"" for _ in questions]

    def dump(self, question: Any) -> list[bytes]:
        return []

    def close(self) -> None:
        self.sent.clear()


class QuietKernel(Kernel):
    """The machine's own sysctls stay as they are."""

    def write_text(self, path: str, text: str) -> None:
        return


@contextlib.asynccontextmanager
async def context() -> AsyncIterator[Context]:
    made = Context.here(QuietKernel())
    try:
        yield made
    finally:
        made.drainer.close()
        made.poller.close()


@contextlib.asynccontextmanager
async def plane(tls: Tls | None = None) -> AsyncIterator[Plane]:
    """Its links are accepted on a port of lo, `link_port(plane)`: it is source and destination at once."""
    made = Plane(Context.here(QuietKernel(), tls), quiet_routing(), socket.create_server(("127.0.0.1", 0)))
    made.start()
    try:
        yield made
    finally:
        made.close()


def quiet_routing() -> Routing:
    return Routing(QuietKernel(), QuietNetlink)  # type: ignore[arg-type]


def link_endpoint(made: Plane) -> Endpoint:
    return Endpoint(*made.acceptor._listener.getsockname()[:2])


async def prepared(made: Plane, links: int = 0) -> None:
    """Migration "m", from this plane to itself, and from one address of lo to another."""
    made.prepare_inbound("m", PrepareInbound(TOKEN))
    await made.prepare_outbound("m", PrepareOutbound(link_endpoint(made), TOKEN, READDRESS, links))


class Moved:
    """One flow moved by a plane to itself: a peer, and the restored application's socket, both without blocking."""

    def __init__(self, made: Plane, before: bytes = b"") -> None:
        self.plane = made
        self.peer, self._workload = tcp_pair()
        if before:
            self.peer.sendall(before)
            self._workload.recv(len(before), socket.MSG_PEEK | socket.MSG_WAITALL)
        self.image = Image(self._workload)

    def adopt(self) -> None:
        self.legs = self.plane.outbound["m"].adopt([wanted(self.image)], [self._workload.dup()])

    def build(self) -> None:
        self.plane.build("m", Legs(self.legs))
        self.app = self.image.restore(READDRESS["127.0.0.1"])

    def commit(self) -> None:
        self.commit_app()
        self.peer.setblocking(False)

    def commit_app(self) -> None:
        self._workload.close()
        self.image.resume(self.app)
        self.app.setblocking(False)

    def move(self) -> None:
        self.adopt()
        self.build()
        self.commit()
        self.plane.resume("m")
        self.plane.repoint("m")

    @property
    def states(self) -> tuple[str, str]:
        """At the source and at the destination."""
        (there,), (here,) = self.plane.outbound_ledger("m"), self.plane.inbound_ledger("m")
        return there.state, here.state

    async def become(self, source: str, destination: str) -> None:
        await eventually(lambda: self.states == (source, destination))

    def close(self) -> None:
        for sock in (self.peer, self._workload, getattr(self, "app", self.peer)):
            sock.close()


async def read(sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, or fewer where the stream ends."""
    data = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(data) < size and (more := await asyncio.get_running_loop().sock_recv(sock, size - len(data))):
            data += more
    return data


async def eventually(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110  what is waited for is often the kernel's
            await asyncio.sleep(0.005)


def tcp_pair(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """A peer and its workload's socket."""
    with socket.create_server((host, 0)) as server:
        peer = socket.create_connection(server.getsockname()[:2])
        app, _ = server.accept()
    return peer, app


def nonblocking_pair() -> tuple[socket.socket, socket.socket]:
    pair = tcp_pair()
    for sock in pair:
        sock.setblocking(False)
    return pair


def wanted(image: Image) -> AdoptedSocket:
    request = image.request()
    request["local"], request["peer"] = Endpoint(*request["local"]), Endpoint(*request["peer"])
    return AdoptedSocket(**request)
