"""`criu swrk`: one CRIU process that waits for one request on a SOCK_SEQPACKET socket, and does it.

Started ahead of the freeze. It ends by itself when its work is done or when the agent's end of the socket closes, so an
agent that dies leaves none waiting; one that is in the middle of a dump finishes it and leaves the tree stopped and
whole.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.pb import Message, Messages
from checkpoint.waiting import readable

_MAX_RESPONSE_BYTES = 64 << 10
"""A response is a few numbers and at most one error message of CRIU's (cr-service.c, set_resp_err)."""

_CHILD_FD = 3


class Swrk:
    """One waiting CRIU; owns its socket, its pidfd and its exit status."""

    def __init__(self, kernel: Kernel, criu: str, messages: Messages, wrapper: Sequence[str] = ()) -> None:
        """Start it, by `wrapper`, a program that becomes it; raises AgentError CRIU_MISSING."""
        self._messages = messages
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.pid = _spawn([*wrapper, criu, "swrk", str(_CHILD_FD)], theirs.fileno())
            except OSError as error:
                ours.close()
                raise AgentError(Code.CRIU_MISSING, f"{criu} cannot be started: {error.strerror}") from error
        ours.setblocking(False)
        self._socket = ours
        self._pidfd = kernel.pidfd_open(self.pid)
        self._closed = False

    async def request(self, kind: int, options: dict[str, Any]) -> Message:
        """Do one request and give CRIU's response; raises AgentError CRIU_FAILED when it dies without one."""
        request = self._messages.request(type=kind, opts=self._messages.options(**options))
        try:
            self._socket.send(request.SerializeToString())
            await readable(self._socket.fileno())
            raw = self._socket.recv(_MAX_RESPONSE_BYTES)
        except OSError as error:
            raise AgentError(Code.CRIU_FAILED, f"CRIU is gone: {error.strerror}") from error
        if not raw:
            raise AgentError(Code.CRIU_FAILED, "CRIU ended without an answer")
        response = self._messages.response()
        response.ParseFromString(raw)
        return response

    def abort(self) -> None:
        """Kill it: its request fails. A restore may wait for ever, for a file lock that another process holds."""
        if not self._closed:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """Hang up, wait for its end, and reap it. A restored tree's root becomes a child of PID 1 by it."""
        if self._closed:
            return
        self._closed = True
        self._socket.close()
        await readable(self._pidfd)
        self._reap()

    def _reap(self) -> None:
        os.waitpid(self.pid, 0)  # it waits for nothing: the pidfd said that it has ended
        os.close(self._pidfd)


def _spawn(argv: list[str], fd: int) -> int:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
        actions.append((os.POSIX_SPAWN_DUP2, fd, _CHILD_FD))
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigmask=[])
    finally:
        os.close(null)
