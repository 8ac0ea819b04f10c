"""A Redis without a pod, for the load's own tests, and somebody in front of it who changes what it says."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis

from controller.demo.exchange import command

HOST = "127.0.0.1"


class Redis:
    """A redis-server of the test's own, and a connection to it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port

    async def __call__(self, *words: str) -> object:
        """Send one command; its reply."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        writer.write(command(*(word.encode() for word in words)))
        parser = hiredis.Reader(notEnoughData=...)
        while (reply := parser.gets()) is ...:
            parser.feed(await reader.read(65536))
        writer.close()
        await writer.wait_closed()
        return reply

    async def client_ids(self, having: str) -> list[str]:
        """The ids of the clients whose line in CLIENT LIST matches."""
        listing = await self("CLIENT", "LIST")
        assert isinstance(listing, bytes)
        return [
            line.split()[0].removeprefix("id=") for line in listing.decode().splitlines() if re.search(having, line)
        ]


def free_port() -> int:
    """None that the kernel would give to a connection meanwhile (ip_local_port_range begins at 32,768)."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((HOST, port))
            return port


class Tamperer:
    """A relay in front of Redis that changes what the server says, once, when it is told to."""

    def __init__(self, redis_port: int) -> None:
        self._redis_port = redis_port
        self._writers: list[asyncio.StreamWriter] = []
        self.pattern: re.Pattern[bytes] | None = None
        self.replacement = b""
        self.changed = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, HOST, 0)
        async with server:
            yield int(server.sockets[0].getsockname()[1])
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(HOST, self._redis_port)
        self._writers += [writer, forth]
        await asyncio.gather(self._copy(reader, forth, False), self._copy(back, writer, True))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tamper: bool) -> None:
        while data := await reader.read(1 << 16):
            if tamper and self.pattern is not None and not self.changed:
                data, self.changed = self.pattern.subn(self.replacement, data, count=1)
            writer.write(data)
        writer.close()
