"""A network between two proxies that breaks: forwards TCP connections, and cuts each as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

from proxy.api import Endpoint
from proxy.io.relay import reset

WHOLE = 1 << 60


class Cutter:
    """`limit(n)` says how many bytes, both ways together, the n-th connection carries before it is cut."""

    def __init__(self, target: Endpoint, limit: Callable[[int], int]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.listener.setblocking(False)
        self.endpoint = Endpoint(*self.listener.getsockname())
        self.connections = 0
        self.carried = 0
        """So many bytes, both ways together."""
        self.refusing = False
        """Connections are reset as soon as they come."""
        self.turned_away = 0
        """So many were."""
        self._target = target
        self._limit = limit
        self._open: set[socket.socket] = set()
        self._arrived: asyncio.Queue[socket.socket] = asyncio.Queue()

    async def serve(self) -> None:
        asyncio.get_running_loop().add_reader(self.listener, self._accept)
        async with asyncio.TaskGroup() as group:
            while True:
                sock = await self._arrived.get()
                number, self.connections = self.connections, self.connections + 1
                group.create_task(self._carry(sock, self._limit(number)), name=f"connection {number}")

    def _accept(self) -> None:
        """(`loop.sock_accept` loses the connection when it is cancelled in that moment.)"""
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock, _ = self.listener.accept()
            if self.refusing:
                self.turned_away += 1
                reset(sock)
            else:
                self._open.add(sock)
                self._arrived.put_nowait(sock)

    def stop_listening(self) -> None:
        if self.listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.listener)
            self.listener.close()

    def close(self) -> None:
        """Those too that nobody has begun to carry."""
        self.stop_listening()
        for sock in self._open:
            sock.close()

    def cut(self) -> None:
        """All there are."""
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    async def _carry(self, near: socket.socket, limit: int) -> None:
        loop = asyncio.get_running_loop()
        far = socket.socket()
        pair = {near, far}
        self._open |= pair
        try:
            for sock in pair:
                sock.setblocking(False)
            await loop.sock_connect(far, (self._target.host, self._target.port))
            left = [limit]
            both = [
                asyncio.create_task(self._pump(one, other, left), name="a direction")
                for one, other in ((near, far), (far, near))
            ]
            await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            return
        finally:
            self._open -= pair
            for sock in pair:
                reset(sock)

    async def _pump(self, source: socket.socket, target: socket.socket, left: list[int]) -> None:
        """To the end of the stream, or of the limit, which is an error."""
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, 65536):
            data = data[: left[0]]
            left[0] -= len(data)
            self.carried += len(data)
            await loop.sock_sendall(target, data)
            if not left[0]:
                raise ConnectionResetError
        target.shutdown(socket.SHUT_WR)


@contextlib.asynccontextmanager
async def cutting(target: Endpoint, limit: Callable[[int], int]) -> AsyncIterator[Cutter]:
    made = Cutter(target, limit)
    serving = asyncio.create_task(made.serve(), name="the network")
    try:
        yield made
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        made.close()
