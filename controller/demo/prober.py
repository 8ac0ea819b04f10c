"""New connections, one every few milliseconds, for as long as the load runs: is a newcomer served during the move?

Sockets are driven by readiness callbacks, without a task or a transport each: a freeze piles up a hundred of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time

from controller.demo.exchange import command
from controller.demo.report import Loss, Probe
from controller.demo.wire import loss_of

PING, PONG = command(b"PING"), b"+PONG\r\n"
AT_ONCE = 4000
"""Probes under way at most: each needs a descriptor, and a process may have 20,000 at the least."""


class Attempt:
    """One new connection: connect, PING, PONG, close."""

    def __init__(self, prober: Prober, family: socket.AddressFamily) -> None:
        self._prober = prober
        self.began = time.monotonic()
        self._connected: float | None = None
        self._got = b""
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def start(self, host: str, port: int) -> None:
        code = self._socket.connect_ex((host, port))
        if code not in (0, errno.EINPROGRESS):
            self.end(loss_of(OSError(code, os.strerror(code))))
            return
        self._prober.loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        self._prober.loop.remove_writer(self._socket)
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.end(loss_of(OSError(code, os.strerror(code))))
            return
        self._connected = time.monotonic()
        self._prober.loop.add_reader(self._socket, self._readable)
        try:
            self._socket.send(PING)  # a fresh socket has room for 14 bytes
        except OSError as error:
            self.end(loss_of(error))

    def _readable(self) -> None:
        try:
            data = self._socket.recv(len(PONG))
        except BlockingIOError:
            return
        except OSError as error:
            self.end(loss_of(error))
            return
        self._got += data
        if self._got == PONG:
            self.end(None)
        elif not data or not PONG.startswith(self._got):
            self.end("corrupt" if data else "closed")

    def end(self, loss: Loss | None) -> None:
        """Write it down and let the socket go."""
        now = time.monotonic()
        self._prober.loop.remove_writer(self._socket)
        self._prober.loop.remove_reader(self._socket)
        self._socket.close()
        self._prober.ended(self, Probe(self.began, self._connected, None if loss else now, loss))


class Prober:
    """Begins attempts on time, and ends those that take too long."""

    def __init__(self, host: str, port: int, every_seconds: float, timeout_seconds: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.probes: list[Probe] = []
        self.failed = 0
        self._target = host, port
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._every, self._timeout = every_seconds, timeout_seconds
        self._under_way: dict[Attempt, None] = {}  # in the order they began
        self._timer: asyncio.TimerHandle | None = None
        self._finishing = False
        self._none_left = asyncio.Event()

    def start(self) -> None:
        if self._every > 0:
            self._turn()

    async def finish(self, deadline: float) -> None:
        """Begin no more, wait for those under way until `deadline` (CLOCK_MONOTONIC), then give them up."""
        if self._timer is not None:
            self._timer.cancel()
        self._finishing = True
        with contextlib.suppress(TimeoutError):
            if self._under_way:
                await asyncio.wait_for(self._none_left.wait(), max(0.0, deadline - time.monotonic()))
        self.abandon()

    def abandon(self) -> None:
        """Give up those under way: they were not served."""
        if self._timer is not None:
            self._timer.cancel()
        for attempt in list(self._under_way):
            attempt.end("timeout")

    def ended(self, attempt: Attempt, probe: Probe) -> None:
        self._under_way.pop(attempt, None)
        self.probes.append(probe)
        self.failed += probe.loss is not None
        if self._finishing and not self._under_way:
            self._none_left.set()

    def _turn(self) -> None:
        now = time.monotonic()
        self._timer = self.loop.call_later(self._every, self._turn)
        self._expire(now)
        if len(self._under_way) < AT_ONCE:
            attempt = Attempt(self, self._family)
            self._under_way[attempt] = None
            attempt.start(*self._target)

    def _expire(self, now: float) -> None:
        while self._under_way:
            oldest = next(iter(self._under_way))
            if now - oldest.began < self._timeout:
                return
            oldest.end("timeout")
