"""The flow's end of a UDP socket: a stream that is cut into datagrams (`proxy.core.datagram`)."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from proxy.core.datagram import BadRecord, Datagram, Decoder, encode
from proxy.io.context import Context

log = logging.getLogger(__name__)

_READ_BYTES = 65536


class DatagramStream:
    """One end of a flow's stream, cut into datagrams. `ended` is called once, when the flow has ended."""

    def __init__(self, context: Context, deliver: Callable[[Datagram], None], ended: Callable[[], None]) -> None:
        self.leg, self._near = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        """`leg` is the flow's."""
        self._context = context
        self._deliver = deliver
        self._ended = ended
        self._decoder = Decoder()
        self._kept = b""
        self._drained: Callable[[], None] | None = None
        self.used_at = context.loop.time()
        for sock in (self.leg, self._near):
            sock.setblocking(False)
        context.poller.read(self._near, self._readable)

    @property
    def full(self) -> bool:
        return bool(self._kept)

    def say(self, one: Datagram, drained: Callable[[], None]) -> None:
        """Into the stream; `drained` is called when there is room again, if there is none now (`full`)."""
        self.used_at = self._context.loop.time()
        self._drained = drained
        self._kept += encode(one)
        self._flush()

    def close(self) -> None:
        """The flow sees its leg end."""
        if self._near.fileno() >= 0:
            self._context.poller.forget(self._near)
            self._near.close()

    def _flush(self) -> None:
        try:
            self._kept = self._kept[self._near.send(self._kept) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end()
            return
        self._context.poller.write(self._near, self._writable if self._kept else None)

    def _writable(self) -> None:
        self._flush()
        if not self._kept and self._drained and self._near.fileno() >= 0:
            self._drained()

    def _readable(self) -> None:
        try:
            data = self._near.recv(_READ_BYTES)
            for one in self._decoder.feed(data):
                self.used_at = self._context.loop.time()
                self._deliver(one)
        except BlockingIOError:
            return
        except (OSError, BadRecord) as error:
            log.warning("datagrams are not relayed any more: %s", error)
            data = b""
        if not data:
            self._end()

    def _end(self) -> None:
        self.close()
        self._ended()
