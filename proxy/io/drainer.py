"""Sockets that may only be closed, or reset, when their other end has everything."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from proxy.core.ledger import TcpState
from proxy.io.relay import reset
from proxy.sys import options
from proxy.sys.kernel import Kernel


@dataclass(eq=False)
class _Draining:
    sock: socket.socket
    drained: Callable[[], None]
    deadline: float
    """When nothing is in flight; `last` if something is."""
    last: float
    timer: asyncio.TimerHandle | None = None


class Drainer:
    """Waits until a socket's other end has acknowledged everything. The kernel does not announce that, so it is asked:
    of each socket soon at first, then more and more seldom. So those whose other end is silent for long cost little,
    and those that end all the time put off nobody."""

    SOONEST_SECONDS, LATEST_SECONDS = 0.01, 1.0
    RESET_SECONDS, IN_FLIGHT_SECONDS = 1.0, 60.0
    """How long a reset waits for the bytes before it: a reset throws away what is unsent, which the sender had sent.

    Longer while some are in flight: a RST that is not at the very byte which the other end expects next is answered by
    a question (RFC 5961, 3.2), and where the address is not this pod's no kernel answers that: it would go unheard.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, kernel: Kernel) -> None:
        self._loop = loop
        self._kernel = kernel
        self._waiting: dict[socket.socket, _Draining] = {}

    def wait(self, sock: socket.socket, drained: Callable[[], None]) -> None:
        """Call `drained` once nothing is left to be acknowledged, or the connection is gone."""
        self._add(_Draining(sock, drained, float("inf"), float("inf")))

    def reset(self, sock: socket.socket) -> None:
        """Reset the connection when its last bytes have arrived, or after a second if they are not on their way."""
        if self._is_drained(sock):
            reset(sock)
        else:
            now = self._loop.time()
            drained = partial(reset, sock)
            self._add(_Draining(sock, drained, now + self.RESET_SECONDS, now + self.IN_FLIGHT_SECONDS))

    def forget(self, sock: socket.socket) -> None:
        entry = self._waiting.pop(sock, None)
        if entry and entry.timer:
            entry.timer.cancel()

    def close(self) -> None:
        """Stop waiting; what still drains is closed by its owner, and the kernel goes on by itself."""
        for entry in list(self._waiting.values()):
            self.forget(entry.sock)
            if entry.deadline != float("inf"):
                reset(entry.sock)

    def _add(self, entry: _Draining) -> None:
        self._waiting[entry.sock] = entry
        self._look_in(self.SOONEST_SECONDS, entry)

    def _look_in(self, seconds: float, entry: _Draining) -> None:
        entry.timer = self._loop.call_later(seconds, self._look, seconds, entry)

    def _look(self, waited_seconds: float, entry: _Draining) -> None:
        entry.timer = None
        if self._is_drained(entry.sock) or self._is_late(entry):
            del self._waiting[entry.sock]
            entry.drained()
        else:
            self._look_in(min(2 * waited_seconds, self.LATEST_SECONDS), entry)

    def _is_late(self, entry: _Draining) -> bool:
        now = self._loop.time()
        return now >= entry.deadline and (now >= entry.last or not self._in_flight(entry.sock))

    def _in_flight(self, sock: socket.socket) -> int:
        """Segments that were sent and are not acknowledged."""
        info = self._kernel.get_bytes(sock, options.SOL_TCP, options.TCP_INFO, options.INFO_BYTES)
        return int.from_bytes(info[options.INFO_UNACKED : options.INFO_UNACKED + 4], sys.byteorder)

    def _is_drained(self, sock: socket.socket) -> bool:
        try:
            if not self._kernel.queued(sock, options.SIOCOUTQ):
                return True
            info = self._kernel.get_bytes(sock, options.SOL_TCP, options.TCP_INFO, options.INFO_BYTES)
        except OSError:
            return True
        return info[options.INFO_STATE] == TcpState.CLOSE
