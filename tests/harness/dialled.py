"""Whoever dials a proxy's acceptor, frame by frame: an initiator in the hands of a test, or a stranger."""

from __future__ import annotations

import asyncio
import socket

from proxy.core.handshake import proof
from proxy.core.wire import Challenge, Decoder, Frame, Hello, encode
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts


class Dialled:
    """A connection to the acceptor, its challenge heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = Decoder()
        self.nonce = b""

    async def __aenter__(self) -> Dialled:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def challenged(self) -> Dialled:
        (challenge,) = await answers(self, 1)
        assert isinstance(challenge, Challenge)
        self.nonce = challenge.nonce
        return self

    def hello(self, migration: str = "m", token: str = parts.TOKEN) -> bytes:
        return encode(Hello(migration, proof(bytes.fromhex(token), self.nonce, migration)))


async def dial(plane: Plane) -> Dialled:
    sock = socket.socket()
    sock.setblocking(False)
    endpoint = parts.link_endpoint(plane)
    await asyncio.get_running_loop().sock_connect(sock, (endpoint.host, endpoint.port))
    return Dialled(sock)


async def greeted(plane: Plane, said: bytes = b"") -> Dialled:
    """Its hello said, and something more."""
    made = await (await dial(plane)).challenged()
    made.sock.send(made.hello() + said)
    return made


async def answers(dialled: Dialled, frames: int) -> list[Frame]:
    """So many answers, and then the end where there are fewer; what came with them is for the next to hear."""
    heard: list[Frame] = []
    async with asyncio.timeout(parts.PATIENCE_SECONDS):
        while len(heard) < frames:
            if frame := dialled.decoder.next():
                heard.append(frame)
            elif data := await asyncio.get_running_loop().sock_recv(dialled.sock, 4096):
                dialled.decoder.feed(data)
            else:
                break
    return heard
