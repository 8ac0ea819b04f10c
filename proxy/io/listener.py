"""An adopted listening socket: its backlog during the hold, its connections afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from proxy.api import Endpoint
from proxy.io.context import Context
from proxy.sys import address, limits

MIGRATE_REQUESTS = "/proc/sys/net/ipv4/tcp_migrate_req"


class HeldListener:
    """An adopted listening socket. The kernel completes handshakes into it all through the hold."""

    ACCEPTS_A_CALLBACK = 4  # let relayed flows have their turn: they have waited longer
    EXHAUSTED_SECONDS = 0.1  # no descriptor free: the backlog keeps the rest meanwhile

    def __init__(self, context: Context, sock: socket.socket, local: Endpoint, taken: Callable[..., None]) -> None:
        self.local = local
        self._context = context
        self._sock = sock
        self._taken = taken
        self._backlog = limits.raise_backlog(context.kernel, sock)
        self._listening = False
        self._pause: asyncio.TimerHandle | None = None
        self._leaves_queue = False
        """When it closes, what waits in it goes to a listener that shares its port."""

    def release(self) -> None:
        """Give the workload its backlog back and let go of the duplicate."""
        limits.restore_backlog(self._context.kernel, self._sock, self._backlog)
        self._sock.close()

    def share(self, shared: bool, seconds: float = 0) -> None:
        """Let the workload's restored listener have the same port, beside this one; or not, when it comes to nothing.

        (CRIU sets SO_REUSEPORT while it restores.) The kernel hands new connections to one or the other, and those of
        the one that is closed to the one that stays (ip-sysctl.rst, tcp_migrate_req). So meanwhile, for `seconds` at
        most, whoever comes is left waiting for that: what is taken here cannot be brought to a listener of just the
        address that the peer has dialled, for its two ends are taken.
        """
        with contextlib.suppress(OSError):
            self._context.kernel.write_text(MIGRATE_REQUESTS, "1\n")
            self._leaves_queue = shared
        self._context.kernel.set_int(self._sock, socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        if self._pause:
            self._pause.cancel()
        if self._leaves_queue:
            self._wait(seconds)
        else:
            self._resume()

    def hand_over(self) -> bool:
        """The restored listener serves from now on: close, if that loses nobody. Gives whether it did."""
        if self._leaves_queue:
            self.close()
        return self._leaves_queue

    def take_waiting(self) -> None:
        """Take what is in the queue now."""
        while self._accept_some():
            pass

    def repoint(self) -> int:
        """Take what is waiting and whatever comes, as the loop has time; gives how many are waiting."""
        self._sock.setblocking(False)
        self._resume()
        return limits.waiting(self._context.kernel, self._sock)

    def close(self) -> None:
        if self._pause:
            self._pause.cancel()
        self._context.poller.forget(self._sock)
        self._sock.close()

    def _pause_if_listening(self) -> None:
        if self._listening:
            self._wait(self.EXHAUSTED_SECONDS)

    def _resume(self) -> None:
        self._pause = None
        self._listening = True
        self._context.poller.read(self._sock, self._accept_some)

    def _wait(self, seconds: float) -> None:
        self._context.poller.read(self._sock, None)
        self._listening = False
        self._pause = self._context.loop.call_later(seconds, self._resume)

    def _accept_some(self) -> int:
        for count in range(self.ACCEPTS_A_CALLBACK):
            if not self._context.lending.take_for_leg():
                self._pause_if_listening()
                return count
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return count
            except OSError as error:
                if error.errno in limits.EXHAUSTED:
                    self._pause_if_listening()
                return count
            self._taken(sock, address.endpoint(peer), address.endpoint(sock.getsockname()))
        return self.ACCEPTS_A_CALLBACK
