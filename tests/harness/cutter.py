"""Something in the way of a TCP server, at its address: lets so many bytes to it pass, or from it, then cuts.

From then on the server is down, until it is `mend`ed, or well again; or it takes its time with every byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import Enum


class Then(Enum):
    DOWN = "down"
    WELL = "well"


class Cutter:
    """`port` is what to connect to; `cuts` counts how often it cut."""

    def __init__(
        self, host: str, port: int, after_bytes: int, then: Then, pause_seconds: float, *, counts_answers: bool
    ) -> None:
        self.port, self.cuts = 0, 0
        self._target, self._counts_answers = (host, port), counts_answers
        self._left, self._then, self._pause_seconds = after_bytes, then, pause_seconds
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._target[0], 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def mend(self) -> None:
        """Nothing is in the way any more."""
        self._left = 1 << 60

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._abort()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            if self._left <= 0 and self._then is Then.DOWN:
                return self._abort()
            theirs, upstream = await asyncio.open_connection(*self._target)
            self._writers.add(upstream)
            await asyncio.gather(
                self._pump(reader, upstream, counted=not self._counts_answers),
                self._pump(theirs, writer, counted=self._counts_answers),
            )
        writer.transport.abort()
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if counted:
                    await asyncio.sleep(self._pause_seconds)
                    self._count(len(data))
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left <= 0:
            self.cuts += 1
            if self._then is Then.WELL:
                self.mend()
            self._abort()

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def cutter(
    host: str, port: int, *, after_bytes: int, then: Then, pause_seconds: float = 0.0, counts_answers: bool = False
) -> AsyncIterator[Cutter]:
    """One of its own; nothing of it is left afterwards. With `counts_answers` what the server says is what counts."""
    made = Cutter(host, port, after_bytes, then, pause_seconds, counts_answers=counts_answers)
    await made.start()
    try:
        yield made
    finally:
        await made.close()
