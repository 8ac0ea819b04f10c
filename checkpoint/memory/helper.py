"""The agent's hold on a giver or a taker: started before the freeze, spoken to over a socket, watched by its pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.processes.tree import Member, hold, stat
from checkpoint.waiting import readable

CONTROL_FD = 3
_USERFAULTFD = "anon_inode:[userfaultfd]"
_MAX_ANSWER_BYTES = 64 << 10
_ANSWER_SECONDS = 10.0
"""It answers in milliseconds; its start, with all its imports, takes a tenth of a second."""


class MemoryHelper:
    """One process: ours (`start`), or one that outlived the agent before this one (`find`)."""

    def __init__(self, kernel: Kernel, member: Member, control: socket.socket | None) -> None:
        self._kernel = kernel
        self._member = member
        self._control = control
        self._asking = asyncio.Lock()

    @classmethod
    async def start(cls, kernel: Kernel, module: str, arguments: Sequence[str], order: dict[str, Any]) -> MemoryHelper:
        """Start it and wait until it has obeyed its first order. Raises AgentError MEMORY_HELPER."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pid = _spawn([sys.executable, "-m", module, *arguments], theirs.fileno())
        ours.setblocking(False)
        seen = stat(pid)
        assert seen is not None  # our child: it stays at least as a zombie
        helper = cls(kernel, Member(pid, seen.start_time, kernel.pidfd_open(pid)), ours)
        try:
            helper.answer = await helper.ask(order)
        except BaseException:
            await helper.close()
            raise
        return helper

    @classmethod
    def find(cls, kernel: Kernel, identity: Identity | None) -> MemoryHelper | None:
        """The one on record, if it lives."""
        member = None if identity is None else hold(kernel, identity.pid)
        if member is None or identity is None:
            return None
        if member.start_time != identity.start_time or (seen := stat(member.pid)) is None or seen.state in "ZX":
            os.close(member.pidfd)
            return None
        return cls(kernel, member, None)

    answer: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed
    """To the first order."""

    @property
    def identity(self) -> Identity:
        return Identity(self._member.pid, self._member.start_time)

    async def ask(self, order: dict[str, Any], *fds: int) -> dict[str, Any]:
        """Give an order, with descriptors; raises AgentError MEMORY_HELPER when it is refused or nobody answers."""
        async with self._asking:  # of two at once, one would never hear of its answer
            raw = await self._ask(order, fds)
        if not raw:
            raise AgentError(Code.MEMORY_HELPER, "the helper for the memory has ended")
        answer: dict[str, Any] = json.loads(raw)
        if "error" in answer:
            raise AgentError(Code.MEMORY_HELPER, f"the helper for the memory cannot go on: {answer['error']}")
        return answer

    async def _ask(self, order: dict[str, Any], fds: Sequence[int]) -> bytes:
        assert self._control is not None
        try:
            socket.send_fds(self._control, [json.dumps(order).encode()], fds)
            async with asyncio.timeout(_ANSWER_SECONDS):
                await readable(self._control.fileno())
            return self._control.recv(_MAX_ANSWER_BYTES)
        except OSError as error:  # TimeoutError is one
            raise AgentError(Code.MEMORY_HELPER, f"the helper for the memory does not answer: {error}") from error

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended: whoever watches it is told
            self._kernel.pidfd_signal(self._member.pidfd, number)

    def userfaultfds(self) -> list[int]:
        """Duplicates of those that it has; the caller closes them."""
        folder = f"/proc/{self._member.pid}/fd"
        names = [name for name in procfs.names(folder) if procfs.link(f"{folder}/{name}") == _USERFAULTFD]
        return [self._kernel.pidfd_getfd(self._member.pidfd, int(name)) for name in names]

    @property
    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._member.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def ended(self) -> None:
        await readable(self._member.pidfd)

    async def close(self) -> None:
        """Kill it, wait for its end, and reap it if it is ours."""
        if self._member.pidfd < 0:
            return
        self.signal(signal.SIGKILL)
        await self.ended()
        self.let_go()

    def let_go(self) -> int:
        """Forget it, after its end or because the agent ends; its exit status, where that is known, else -1."""
        if self._control is not None:
            self._control.close()
            self._control = None
        os.close(self._member.pidfd)
        self._member = Member(self._member.pid, self._member.start_time, -1)
        try:
            _, status = os.waitpid(self._member.pid, os.WNOHANG)
        except ChildProcessError:  # of an agent before this one: PID 1 reaps it
            return -1
        return os.waitstatus_to_exitcode(status) if status else 0


def _spawn(argv: list[str], fd: int) -> int:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, 2, 1), (os.POSIX_SPAWN_DUP2, fd, CONTROL_FD)]
        # A session of its own: the agent's end must not reach it, not as a SIGHUP either.
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigmask=[], setsid=True)
    finally:
        os.close(null)
