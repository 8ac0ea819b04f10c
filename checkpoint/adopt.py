"""Give the workload's sockets to the proxy: duplicates by pidfd_getfd(2), over the adoption protocol.

JSON messages on a SOCK_SEQPACKET socket, the descriptors beside them (SCM_RIGHTS, unix(7)), in the order of `sockets`:

    {"op": "adopt", "migration": m, "sockets": [...]}  >  {"adopted": n, "legs": [...]} or {"error": Problem}
    {"op": "release", "migration": m}                  >  {"released": n}

The connection stays open while the proxy holds. End of file from the proxy means that it died.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from checkpoint.core import flows, readdress
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import Stream
from checkpoint.kernel import Kernel
from checkpoint.tree import Tree
from checkpoint.waiting import readable

CHUNK = 250
"""Descriptors in one message: the kernel takes 253 at most (K: net/scm.h, SCM_MAX_FD)."""

_FLOW_BITS = 48
_MAX_ANSWER_BYTES = 1 << 20
_ANSWER_SECONDS = 10.0
"""A chunk takes the proxy milliseconds; a proxy that takes longer is stuck, and the workload stands still meanwhile."""

End = tuple[str, int]


class AdoptedSocket(msgspec.Struct):
    """One socket as the protocol names it; sequence numbers are those of the image before the edit, without FINs."""

    flow: int
    kind: Literal["flow", "listener"]
    local: End
    peer: End
    direction: Literal["inbound", "outbound"]
    inq_seq: int = 0
    inq_len: int = 0
    outq_seq: int = 0
    outq_len: int = 0
    fin_received: bool = False
    fin_sent: bool = False
    given_up: str = ""
    """Why it cannot be kept; "" as a rule."""


class _Adopt(msgspec.Struct, tag_field="op", tag="adopt"):
    migration: str
    sockets: list[AdoptedSocket]


class _Release(msgspec.Struct, tag_field="op", tag="release"):
    migration: str


class _ProxyProblem(msgspec.Struct):
    message: str
    hint: str = ""


class _Answer(msgspec.Struct):
    adopted: int = 0
    released: int = 0
    legs: list[msgspec.Raw] = []
    error: _ProxyProblem | None = None


class LegEnds(msgspec.Struct, array_like=True):
    """The head of a leg (`proxy.api.Leg`): all of it that the agent looks at."""

    flow: int
    peer: End | None = None
    app: End | None = None
    """The restored socket's address and port: the proxy decides them, for it knows which ends are taken."""


@dataclass(frozen=True)
class Given:
    """One socket to give: what is said of it, where it is open, and its inode as the image has it."""

    say: AdoptedSocket
    at: flows.Descriptor
    ino: int


def ends_of(legs: Sequence[msgspec.Raw]) -> list[LegEnds]:
    """Raises AgentError PROXY_REFUSED."""
    try:
        return [msgspec.json.decode(leg, type=LegEnds) for leg in legs]
    except msgspec.DecodeError as error:
        raise AgentError(Code.PROXY_REFUSED, f"the proxy's legs make no sense: {error}") from error


def describe(held: flows.Held, stream: Stream | None) -> Given:
    """What the proxy must know of one socket; `stream` is None for a listener."""
    one = held.socket
    say = AdoptedSocket(
        flow=secrets.randbits(_FLOW_BITS),
        kind="listener" if stream is None else "flow",
        local=one.local,
        peer=one.peer,
        direction=held.direction,
    )
    if stream is not None:
        numbers = readdress.without_fins(one.state, stream.numbers)
        say.inq_seq, say.inq_len = numbers.inq_seq, numbers.inq_len
        say.outq_seq, say.outq_len = numbers.outq_seq, numbers.outq_len
        say.fin_received = one.state in readdress.FIN_RECEIVED
        say.fin_sent = one.state in readdress.FIN_SENT
    return Given(say, held.at, one.ino)


class Adoption:
    """The connection to the proxy for one migration. `lost` is called once when the proxy dies while it holds."""

    def __init__(self, kernel: Kernel, path: str, migration: str, lost: Callable[[], None]) -> None:
        """Connect; raises AgentError PROXY_UNREACHABLE."""
        self._kernel = kernel
        self._migration = migration
        self._lost = lost
        self._watching = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(path)  # a unix connect waits for nobody: the listener's queue is there or it is not
        except OSError as error:
            self._socket.close()
            raise AgentError(
                Code.PROXY_UNREACHABLE, f"the proxy does not answer at {path}: {error.strerror}"
            ) from error
        self._socket.setblocking(False)

    async def adopt(self, tree: Tree, given: Sequence[Given]) -> list[msgspec.Raw]:
        """Give all sockets, chunk by chunk, and return the legs; then watch for the proxy's end.

        Raises AgentError PROXY_REFUSED, PROXY_UNREACHABLE or INTERNAL.
        """
        legs: list[msgspec.Raw] = []
        pidfds = {member.pid: member.pidfd for member in tree.members}
        for at in range(0, len(given), CHUNK):
            chunk = given[at : at + CHUNK]
            fds = self._duplicates(pidfds, chunk)
            try:
                answer = await self._ask(_Adopt(self._migration, [one.say for one in chunk]), fds)
            finally:
                for fd in fds:
                    os.close(fd)
            legs += answer.legs
        self._watch()
        return legs

    async def release(self) -> None:
        """Tell the proxy to let go; a proxy that is dead already has."""
        self._unwatch()
        await self._ask(_Release(self._migration), [])

    def close(self) -> None:
        self._unwatch()
        self._socket.close()

    def _duplicates(self, pidfds: dict[int, int], chunk: Sequence[Given]) -> list[int]:
        fds: list[int] = []
        try:
            for one in chunk:
                fds.append(self._kernel.pidfd_getfd(pidfds[one.at.pid], one.at.fd))
                if self._kernel.inode(fds[-1]) & 0xFFFFFFFF != one.ino:
                    raise AgentError(Code.INTERNAL, f"descriptor {one.at.fd} of process {one.at.pid} is another socket")
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    async def _ask(self, request: _Adopt | _Release, fds: list[int]) -> _Answer:
        try:
            socket.send_fds(self._socket, [msgspec.json.encode(request)], fds)
            async with asyncio.timeout(_ANSWER_SECONDS):
                await readable(self._socket.fileno())
            raw = self._socket.recv(_MAX_ANSWER_BYTES)
        except OSError as error:  # TimeoutError is one
            raise AgentError(Code.PROXY_UNREACHABLE, f"the proxy does not answer: {error}") from error
        if not raw:
            raise AgentError(Code.PROXY_UNREACHABLE, "the proxy hung up")
        try:
            answer = msgspec.json.decode(raw, type=_Answer)
        except msgspec.DecodeError as error:
            raise AgentError(Code.PROXY_REFUSED, f"the proxy's answer makes no sense: {error}") from error
        if answer.error is not None:
            raise AgentError(Code.PROXY_REFUSED, f"the proxy refused: {answer.error.message}", hint=answer.error.hint)
        return answer

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._ended)
        self._watching = True

    def _unwatch(self) -> None:
        if self._watching:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._watching = False

    def _ended(self) -> None:
        """The proxy says nothing unasked: whatever can be read now is its end."""
        self._unwatch()
        self._lost()
