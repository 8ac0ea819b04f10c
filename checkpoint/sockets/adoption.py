"""The agent's end of the adoption protocol (`checkpoint.sockets.adopt`)."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from socket import SocketType

import msgspec

from checkpoint.core.errors import AgentError, Code
from checkpoint.sockets.adopt import (
    Adopt,
    Answer,
    Farewell,
    Foresee,
    ForeseenSocket,
    Given,
    PairedSocket,
    Release,
    Take,
    Taken,
    understood,
)
from checkpoint.waiting import readable

CHUNK = 40
"""Descriptors in one message. Few: so that the proxy begins soon, and has few to do when the last one is said. The
kernel takes 253 at most (K: net/scm.h, SCM_MAX_FD)."""

CHUNK_OF_PAIRS = 125
"""Of sockets of which there is little to say."""
UNREAD_OF_PAIRS_BYTES = 64 << 10
"""What the workload has not read of one message's is in the answer, whole: AHEAD of them must fit the socket. More than
one has at most (`checkpoint.core.pairs`)."""

AHEAD = 2
"""Messages on their way at once: while the proxy is at one, the next is made. More might not fit the socket."""

_MAX_ANSWER_BYTES = 1 << 20
_ANSWER_SECONDS = 10.0
"""A chunk takes the proxy milliseconds; a proxy that takes longer is stuck, and the workload stands still meanwhile."""

_BACK_SECONDS = 1.0
"""All that the way back waits for the proxy: it does nothing more with what it has not taken by then
(`proxy.io.adoption`, `proxy.io.hold_limit`), and the workload stands still meanwhile."""


class Adoption:
    """The connection to the proxy for one migration. `lost` is called once when the proxy dies while it holds."""

    def __init__(self, path: str, migration: str, lost: Callable[[], None]) -> None:
        """Connect; raises AgentError PROXY_UNREACHABLE."""
        self._migration = migration
        self._lost = lost
        self._listening = False
        self._unanswered: deque[Sequence[Given]] = deque()
        self._patience: asyncio.Timeout | None = None
        """While an answer is waited for."""
        self._give_up_at: float | None = None
        """On the way back: when nothing more is waited for, by the loop's clock."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)  # not for the connect either: one that stands still may have a full queue
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise AgentError(
                Code.PROXY_UNREACHABLE, f"the proxy does not answer at {path}: {error.strerror}"
            ) from error

    @property
    def has_room(self) -> bool:
        """Whether one more message may be given: while the proxy is at one, the next can be made."""
        return len(self._unanswered) < AHEAD

    def give(self, given: Sequence[Given], flows: int) -> None:
        """Give one message's sockets, CHUNK at most; `flows` is how many flows all messages have together.

        Raises AgentError PROXY_UNREACHABLE.
        """
        self._say(Adopt(self._migration, [one.say for one in given], flows), given, [one.sock for one in given])

    def give_paired(self, given: Sequence[PairedSocket], flows: int) -> None:
        """The same of sockets that were foreseen, CHUNK_OF_PAIRS at most. Raises AgentError PROXY_UNREACHABLE."""
        said = [(one.flow, one.unread) for one in given]
        self._say(Take(self._migration, said, flows), (), [one.sock for one in given])

    def answered(self) -> Iterator[Taken]:
        """What the proxy has said it has, without waiting. Raises AgentError PROXY_REFUSED or PROXY_UNREACHABLE."""
        while self._unanswered and (raw := self._heard()) is not None:
            yield _taken(self._unanswered.popleft(), understood(raw))

    async def next(self) -> Taken:
        """The oldest message that was not answered, once it is. Raises AgentError, as `answered`."""
        given = self._unanswered.popleft()
        return _taken(given, await self._answer())

    async def settle(self) -> list[Taken]:
        """Wait until the proxy has everything, and give what had not been answered. Raises AgentError."""
        return [await self.next() for _ in range(len(self._unanswered))]

    def listen(self, heard: Callable[[], None]) -> None:
        """`heard` is called as long as there is something to read: answers (`answered`), or the proxy's end."""
        asyncio.get_running_loop().add_reader(self._socket.fileno(), heard)
        self._listening = True

    def deafen(self) -> None:
        """What is read from now on is waited for."""
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._listening = False

    def watch(self) -> None:
        """Everything is settled: from now on the proxy says nothing unasked, so whatever can be read is its end."""
        self.listen(self._ended)

    async def foresee(self, sockets: list[ForeseenSocket]) -> list[msgspec.Raw]:
        """The legs that these can have, in the same order, before the freeze. Raises AgentError."""
        self._say(Foresee(self._migration, sockets))
        return (await self.next()).legs

    def hurry(self) -> None:
        """It is going back: wait for the proxy no longer than _BACK_SECONDS from now on."""
        if self._give_up_at is None:
            self._give_up_at = asyncio.get_running_loop().time() + _BACK_SECONDS
            if self._patience is not None:
                self._patience.reschedule(self._give_up_at)

    async def release(self) -> None:
        """Tell the proxy to let go; a proxy that is dead already has, and one that stands still will hear it. Raises
        AgentError PROXY_UNREACHABLE."""
        self.deafen()
        self.hurry()
        try:
            await self.drain()
        finally:
            self._say(Release(self._migration))
        await self.next()

    async def end(self) -> None:
        """Tell the proxy that the workload, which the migration has brought here, has ended. Raises AgentError."""
        self._say(Farewell(self._migration))
        await self.next()

    async def drain(self) -> None:
        """Wait for the answers to what is on its way, since something else failed: a refusal does not matter any more.

        Raises AgentError PROXY_UNREACHABLE.
        """
        while self._unanswered:
            try:
                await self.next()
            except AgentError as error:
                if error.code is not Code.PROXY_REFUSED:
                    raise

    def close(self) -> None:
        self.deafen()
        self._socket.close()

    def _say(
        self, request: Adopt | Take | Foresee | Release | Farewell, given: Sequence[Given] = (),
        socks: Sequence[SocketType] = (),
    ) -> None:  # fmt: skip
        try:
            socket.send_fds(self._socket, [msgspec.json.encode(request)], [sock.fileno() for sock in socks])
        except OSError as error:
            raise AgentError(Code.PROXY_UNREACHABLE, f"the proxy does not listen: {error}") from error
        self._unanswered.append(given)

    async def _answer(self) -> Answer:
        at = self._give_up_at or asyncio.get_running_loop().time() + _ANSWER_SECONDS
        try:
            async with asyncio.timeout_at(at) as self._patience:
                await readable(self._socket.fileno())
        except OSError as error:  # TimeoutError is one
            raise AgentError(Code.PROXY_UNREACHABLE, f"the proxy does not answer: {error}") from error
        finally:
            self._patience = None
        raw = self._heard()
        assert raw is not None
        return understood(raw)

    def _heard(self) -> bytes | None:
        """The answer that can be read, if one can."""
        try:
            return self._socket.recv(_MAX_ANSWER_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise AgentError(Code.PROXY_UNREACHABLE, f"the proxy does not answer: {error}") from error

    def _ended(self) -> None:
        self.deafen()
        self._lost()


def _taken(given: Sequence[Given], answer: Answer) -> Taken:
    return Taken(given, answer.legs, answer.pairs)
