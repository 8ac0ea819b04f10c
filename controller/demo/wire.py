"""A socket for each of the load's connections: bytes go to its `Peer` and come from it, an ending gets its name."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from typing import cast

import hiredis

from controller.demo.exchange import Peer
from controller.demo.report import Loss

_BY_ERRNO: dict[int, Loss] = {
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
}


def loss_of(error: BaseException | None) -> Loss:
    """The name of an ending: None is an orderly FIN, from a server that should not have sent one."""
    if error is None:
        return "closed"
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, "timeout" if isinstance(error, TimeoutError) else "unreachable")
    return "corrupt"


class Wire(asyncio.Protocol):
    """One connection. It never reconnects: a connection lost stays lost, and is counted."""

    def __init__(self, peer: Peer, stirred: Callable[[], None]) -> None:
        self.peer = peer
        self._stirred = stirred  # called when anything happened to the peer
        self._transport: asyncio.Transport | None = None
        self._finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        try:
            self.peer.receive(data, now)
        except hiredis.ProtocolError:
            self.peer.lost("corrupt", now)
            self._abort()
        self._stirred()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._finished:
            self.peer.lost(loss_of(exc), time.monotonic())
        self._transport = None
        self._stirred()

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def finish(self) -> None:
        """Close it: it has done its work."""
        self._finished = True
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def connect(peer: Peer, host: str, port: int, stirred: Callable[[], None]) -> Wire:
    """Open a connection for `peer` and say hello. An error is the peer's loss, and is not raised."""
    wire = Wire(peer, stirred)
    try:
        await asyncio.get_running_loop().create_connection(lambda: wire, host, port)
    except OSError as error:
        peer.lost(loss_of(error), time.monotonic())
    else:
        wire.send(peer.hello(time.monotonic()))
    return wire
