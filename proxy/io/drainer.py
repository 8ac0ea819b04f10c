"""Sockets that may only be closed, or reset, when their other end has everything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.ledger import TcpState
from proxy.io.relay import reset
from proxy.sys import options
from proxy.sys.kernel import Kernel


@dataclass(eq=False)
class _Draining:
    sock: socket.socket
    drained: Callable[[], None]
    deadline: float


class Drainer:
    """Waits until a socket's other end has acknowledged everything. The kernel does not announce that, so it is asked:
    soon at first, then more and more seldom while nothing changes. One timer, and only while somebody waits."""

    SOONEST_SECONDS, LATEST_SECONDS = 0.01, 1.0
    RESET_SECONDS = 1.0
    """How long a reset waits for the bytes before it: a reset throws away what is unsent, which the sender had sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kernel: Kernel) -> None:
        self._loop = loop
        self._kernel = kernel
        self._waiting: list[_Draining] = []
        self._interval = self.SOONEST_SECONDS
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, sock: socket.socket, drained: Callable[[], None]) -> None:
        """Call `drained` once nothing is left to be acknowledged, or the connection is gone."""
        self._add(_Draining(sock, drained, float("inf")))

    def reset(self, sock: socket.socket) -> None:
        """Reset the connection when its last bytes have arrived, or after a second."""
        if self._is_drained(sock):
            reset(sock)
        else:
            self._add(_Draining(sock, lambda: reset(sock), self._loop.time() + self.RESET_SECONDS))

    def forget(self, sock: socket.socket) -> None:
        self._waiting = [entry for entry in self._waiting if entry.sock is not sock]

    def close(self) -> None:
        """Stop waiting; what still drains is closed by its owner, and the kernel goes on by itself."""
        if self._timer:
            self._timer.cancel()
        self._timer = None
        for entry in self._waiting:
            if entry.deadline != float("inf"):
                reset(entry.sock)
        self._waiting.clear()

    def _add(self, entry: _Draining) -> None:
        self._waiting.append(entry)
        if self._timer:
            self._timer.cancel()
        self._interval = self.SOONEST_SECONDS
        self._timer = self._loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        done = [entry for entry in self._waiting if now >= entry.deadline or self._is_drained(entry.sock)]
        self._waiting = [entry for entry in self._waiting if entry not in done]
        self._interval = self.SOONEST_SECONDS if done else min(2 * self._interval, self.LATEST_SECONDS)
        self._timer = self._loop.call_later(self._interval, self._look) if self._waiting else None
        for entry in done:
            entry.drained()

    def _is_drained(self, sock: socket.socket) -> bool:
        try:
            if not self._kernel.queued(sock, options.SIOCOUTQ):
                return True
            info = self._kernel.get_bytes(sock, options.SOL_TCP, options.TCP_INFO, options.INFO_BYTES)
        except OSError:
            return True
        return info[options.INFO_STATE] == TcpState.CLOSE
