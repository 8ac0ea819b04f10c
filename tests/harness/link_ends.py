"""Who a dialled connection meets: an acceptor that answers as the test says, and a link that notes what it is told."""

from __future__ import annotations

import asyncio
import socket

from proxy.api import Endpoint
from proxy.core.handshake import proof
from proxy.core.wire import Accepted, Challenge, Decoder, Frame, Hello, encode
from proxy.io.context import Context
from proxy.io.dialling import DialledConnection, Lost
from tests.harness import proxy_parts as parts

TOKEN = bytes(32)
NONCE = bytes(range(32))
CHALLENGE = encode(Challenge(NONCE))
ACCEPTED = encode(Accepted())
HELLO = Hello("m", proof(TOKEN, NONCE, "m"))


class Destination:
    """Takes links, and answers as the test says."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.endpoint = Endpoint(*self.listener.getsockname())
        self.links: list[socket.socket] = []

    async def take(self, said: bytes = CHALLENGE) -> socket.socket:
        async with asyncio.timeout(parts.PATIENCE_SECONDS):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.links.append(sock)
        sock.send(said)
        return sock

    async def hear(self, sock: socket.socket, frames: int) -> list[Frame]:
        decoder, heard = Decoder(), []
        async with asyncio.timeout(parts.PATIENCE_SECONDS):
            while len(heard) < frames:
                decoder.feed(await asyncio.get_running_loop().sock_recv(sock, 4096))
                while len(heard) < frames and (frame := decoder.next()):
                    heard.append(frame)
        return heard

    def close(self) -> None:
        for sock in (self.listener, *self.links):
            sock.close()


class User:
    """A flow that notes what its link tells it."""

    def __init__(self) -> None:
        self.given: DialledConnection | None = None
        self.dialled: DialledConnection | None = None
        """Once it is sendable."""
        self.accepted: tuple[int, bytes] | None = None
        self.lost: Lost | None = None

    def link_dialled(self, dialled: DialledConnection) -> None:
        self.given = dialled

    def link_sendable(self, dialled: DialledConnection) -> None:
        self.dialled = dialled

    def link_accepted(self, received: int, rest: bytes) -> None:
        self.accepted = received, rest

    def link_lost(self, lost: Lost) -> None:
        self.lost = lost

    def close(self, context: Context) -> None:
        """Closes the connection, which it must have been given."""
        assert self.dialled
        assert self.dialled.connection
        context.poller.forget(self.dialled.connection)
        self.dialled.connection.close()
