"""`criu swrk`: one CRIU process that waits for one request on a SOCK_SEQPACKET socket, and does it.

Started ahead of the freeze. It ends by itself when its work is done or when the agent's end of the socket closes, so an
agent that dies leaves none waiting; one that is in the middle of a dump finishes it and leaves the tree stopped and
whole.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

from checkpoint.core import options
from checkpoint.core.errors import AgentError, Code
from checkpoint.criu import shade
from checkpoint.images.pb import Message, Messages
from checkpoint.kernel import Kernel
from checkpoint.waiting import readable

_LOG = logging.getLogger(__name__)

_MAX_RESPONSE_BYTES = 64 << 10
"""A response is a few numbers and at most one error message of CRIU's (cr-service.c, set_resp_err)."""

_END_SECONDS = 2.0
"""Its socket is closed when it ends, as a rule: it is not waited for beyond that."""

_CHILD_FD = 3
_SHADE_FD = 5
_ABOVE = 16
_MAX_SHADE_BYTES = 16

_PAGE_SERVER_ORDER = struct.Struct("<IxxxxQQQ")  # criu: page-xfer.c, struct page_server_iov
_PAGE_SERVER_CLOSE = 0x1023  # PS_IOV_CLOSE


class Swrk:
    """One waiting CRIU; owns its socket, its pidfd and its exit status."""

    def __init__(
        self, kernel: Kernel, criu: str, messages: Messages, wrapper: Sequence[str] = (), *, lazily: bool = False,
        asked: tuple[str, int] | None = None, inherited: Mapping[str, int] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Start it, by `wrapper`, a program that becomes it; raises AgentError CRIU_MISSING.

        `lazily`: for a lazy dump. Its page server gets a socket on which we have said already that nobody wants a page
        of it: so the dump ends like any other, and the memory stays in the stopped processes. `asked`: it has
        `questions` too, of this kind, about the tree under this root (`checkpoint.criu.shade`). `inherited`: open files
        that a restore may put into its processes, by the keys for them.
        """
        self._page_server = _closed_page_server() if lazily else None
        self._shade = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) if asked else None
        self._messages = messages
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                given = {_CHILD_FD: theirs.fileno()}
                if self._page_server is not None:
                    given[options.PAGE_SERVER_FD] = self._page_server[1].fileno()
                if asked is not None and self._shade is not None:
                    given[_SHADE_FD] = self._shade[1].fileno()
                    shaded = [sys.executable, "-I", "-S", shade.__file__, str(_SHADE_FD)]
                    wrapper = [*shaded, *map(str, asked), *wrapper]
                with _out_of_the_way(inherited) as self._inherited:
                    self.pid = _spawn([*wrapper, criu, "swrk", str(_CHILD_FD)], given, self._inherited.values())
            except OSError as error:
                ours.close()
                self._close_pairs()
                raise AgentError(Code.CRIU_MISSING, f"{criu} cannot be started: {error.strerror}") from error
        ours.setblocking(False)
        self._socket = ours
        self._pidfd = kernel.pidfd_open(self.pid)
        self._closed = False

    async def request(self, kind: int, wanted: dict[str, Any], inherited: Iterable[str] = ()) -> Message:
        """Do one request, with those of the `inherited` files that it needs, and give CRIU's response.

        Raises AgentError CRIU_FAILED when it dies without one.
        """
        opts = self._messages.options(**wanted)
        for key in inherited:
            opts.inherit_fd.add(key=key, fd=self._inherited[key])
        return await self._ask(self._messages.request(type=kind, opts=opts))

    async def features(self) -> Message:
        """What of CRIU's features work here; raises AgentError CRIU_FAILED."""
        asked = self._messages.features(mem_track=True, lazy_pages=True)
        kind = self._messages.FEATURE_CHECK
        return (await self._ask(self._messages.request(type=kind, features=asked))).features

    async def _ask(self, request: Message) -> Message:
        raw = b""
        try:
            self._socket.send(request.SerializeToString())
            await readable(self._socket.fileno(), self._pidfd)
            with suppress(BlockingIOError):  # it has ended, and a child of its has the socket open still
                raw = self._socket.recv(_MAX_RESPONSE_BYTES)
        except OSError as error:
            raise AgentError(Code.CRIU_FAILED, f"CRIU is gone: {error.strerror}") from error
        if not raw:
            raise AgentError(Code.CRIU_FAILED, f"CRIU ended without an answer: {await self._end()}")
        response = self._messages.response()
        response.ParseFromString(raw)
        return response

    async def _end(self) -> str:
        """How it ended, in words."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await readable(self._pidfd)
        return _how_ended(self._pidfd)

    async def questions(self) -> int | None:
        """See `checkpoint.engine.Helper`. None: it was not asked for, or the kernel has no such filter."""
        if self._shade is None:
            return None
        ours, theirs = self._shade
        theirs.close()  # its end is CRIU's, then
        await readable(ours.fileno())
        said, fds, _, _ = socket.recv_fds(ours, _MAX_SHADE_BYTES, 1)
        if not fds:
            _LOG.warning("CRIU is spared nothing: seccomp(2) says %s", said.decode() or "nothing")
            return None
        return fds[0]

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
        self._close_pairs()
        await readable(self._pidfd)
        self._reap()

    def _close_pairs(self) -> None:
        for sock in (*(self._page_server or ()), *(self._shade or ())):
            sock.close()

    def _reap(self) -> None:
        os.waitpid(self.pid, 0)  # it waits for nothing: the pidfd said that it has ended
        os.close(self._pidfd)


def _how_ended(pidfd: int) -> str:
    """In words; of a child that is not reaped yet."""
    seen = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if seen is None:
        return "it has closed its socket"
    if seen.si_code == os.CLD_EXITED:
        return f"its exit status is {seen.si_status}"
    return f"signal {seen.si_status} ({signal.strsignal(seen.si_status)}) has ended it"


def _closed_page_server() -> tuple[socket.socket, socket.socket]:
    """Our end and CRIU's; the order to close is on its way."""
    ours, theirs = socket.socketpair()
    ours.send(_PAGE_SERVER_ORDER.pack(_PAGE_SERVER_CLOSE, 0, 0, 0))
    return ours, theirs


@contextmanager
def _out_of_the_way(descriptors: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """The same open files, none at a number that a child of ours gets something else at."""
    low = {key: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for key, fd in descriptors.items() if fd < _ABOVE}
    try:
        yield {**descriptors, **low}
    finally:
        for fd in low.values():
            os.close(fd)


def _spawn(argv: list[str], given: dict[int, int], same: Iterable[int]) -> int:
    """Start a program; `given` says which of our descriptors it gets as which of its own, `same` which it gets as they
    are."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
        # Out of the way first: one that is to become 4 may be 3 now, which is overwritten before.
        high = {theirs: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for theirs, fd in given.items()}
        actions += [(os.POSIX_SPAWN_DUP2, fd, theirs) for theirs, fd in high.items()]
        actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in same]  # not closed by exec(2), then (posix_spawn(3))
        try:
            return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigmask=[])
        finally:
            for fd in high.values():
                os.close(fd)
    finally:
        os.close(null)
