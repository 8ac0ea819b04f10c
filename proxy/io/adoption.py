"""The adoption socket: the agent passes the workload's sockets, with what the image says of them.

SOCK_SEQPACKET, one JSON message a packet, the descriptors beside it (SCM_RIGHTS, at most 253 a message). Only root may
speak. The end of a connection releases nothing: the agent may die and come back, the hold goes on. But what was given
over it and not taken by then is not: the proxy may have stood still, and the workload run on.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import select
import socket
import struct
import time
from typing import Annotated

import msgspec

from proxy.api import ErrorBody, Leg, PairedLeg
from proxy.core.errors import Code, ProxyError
from proxy.io.adopted import AdoptedSocket, ForeseenSocket, PairedSocket
from proxy.io.plane import Plane

log = logging.getLogger(__name__)

MAX_DESCRIPTORS = 253  # SCM_MAX_FD, include/net/scm.h
MAX_MESSAGE_BYTES = 1 << 20
_PEER_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Adopt(msgspec.Struct, frozen=True, tag_field="op", tag="adopt", forbid_unknown_fields=True):
    migration: str
    sockets: list[AdoptedSocket]
    flows: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many flows all messages of this hold have together."""


class Take(msgspec.Struct, frozen=True, tag_field="op", tag="take", forbid_unknown_fields=True):
    """Adopt connections that were foreseen."""

    migration: str
    sockets: list[PairedSocket]
    flows: Annotated[int, msgspec.Meta(ge=0)] = 0
    """As in `Adopt`."""


class Foresee(msgspec.Struct, frozen=True, tag_field="op", tag="foresee", forbid_unknown_fields=True):
    """These will be adopted, most likely."""

    migration: str
    sockets: list[ForeseenSocket]


class Release(msgspec.Struct, frozen=True, tag_field="op", tag="release", forbid_unknown_fields=True):
    migration: str


class End(msgspec.Struct, frozen=True, tag_field="op", tag="end", forbid_unknown_fields=True):
    """The workload that the migration has brought here has ended."""

    migration: str


class Adopted(msgspec.Struct, frozen=True):
    adopted: int
    legs: list[Leg]


class Taken(msgspec.Struct, frozen=True):
    pairs: list[PairedLeg]


class Foreseen(msgspec.Struct, frozen=True):
    legs: list[Leg]


class ReleasedSockets(msgspec.Struct, frozen=True):
    released: int


class Told(msgspec.Struct, frozen=True):
    told: int
    """So many proxies had waited to hear of it."""


Answer = Adopted | Taken | Foreseen | ReleasedSockets | Told | ErrorBody
_decode = msgspec.json.Decoder(Adopt | Take | Foresee | Release | End).decode
_encode = msgspec.json.Encoder().encode


class AdoptionServer:
    """Takes agents' connections; each message is handled whole, in one callback, and answered."""

    def __init__(self, plane: Plane, listener: socket.socket) -> None:
        self._plane = plane
        self._poller = plane.context.poller
        self._listener = listener
        self._agents: set[socket.socket] = set()

    def start(self) -> None:
        self._listener.setblocking(False)
        self._poller.read(self._listener, self._accept)

    def close(self) -> None:
        self._poller.forget(self._listener)
        self._listener.close()
        for agent in list(self._agents):
            self._drop(agent)

    def _accept(self) -> None:
        try:
            agent, _ = self._listener.accept()
        except OSError:
            return
        _pid, uid, _gid = _PEER_CREDENTIALS.unpack(
            agent.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        agent.setblocking(False)
        if uid != 0:
            self._answer(agent, ErrorBody(ProxyError(Code.FORBIDDEN, f"uid {uid} may not adopt").problem()))
            agent.close()
            return
        agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE_BYTES)
        self._agents.add(agent)
        self._poller.read(agent, lambda: self._readable(agent))

    def _readable(self, agent: socket.socket) -> None:
        try:
            data, ancillary, flags, _ = agent.recvmsg(
                MAX_MESSAGE_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError, ConnectionResetError):
            return  # it has gone without our last answer: what it had said can still be read, and its end
        except OSError:
            self._drop(agent)
            return
        descriptors = _descriptors(ancillary)
        if not data:
            _close(descriptors)
            self._drop(agent)
            return
        truncated = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
        self._answer(agent, self._handle(agent, data, descriptors, truncated))

    def _handle(self, agent: socket.socket, data: bytes, descriptors: list[int], truncated: bool) -> Answer:
        try:
            if truncated:
                raise ProxyError(Code.TOO_LARGE, "too many bytes or descriptors for one message")
            request = _decode(data)
            if isinstance(request, Release):
                return ReleasedSockets(self._plane.release_outbound(request.migration).flows)
            if isinstance(request, Foresee):
                return Foreseen(self._plane.outbound_named(request.migration).foresee(request.sockets))
            if isinstance(request, End):
                return Told(self._plane.end(request.migration))
            return self._adopt(agent, request, descriptors)
        except msgspec.MsgspecError as error:
            return ErrorBody(ProxyError(Code.BAD_REQUEST, str(error)).problem())
        except ProxyError as error:
            return ErrorBody(error.problem())
        except Exception:
            log.exception("adoption failed")
            return ErrorBody(ProxyError(Code.INTERNAL, "adoption failed").problem())
        finally:
            _close(descriptors)

    def _adopt(self, agent: socket.socket, request: Adopt | Take, descriptors: list[int]) -> Adopted | Taken:
        """Takes the descriptors it keeps out of the list."""
        if len(descriptors) != len(request.sockets):
            raise ProxyError(Code.BAD_REQUEST, f"{len(descriptors)} descriptors for {len(request.sockets)} sockets")
        if _has_left(agent):
            raise ProxyError(Code.WRONG_STATE, "whoever gave these waits for them no more: the workload may run")
        migration = self._plane.outbound_named(request.migration)
        start = time.perf_counter()
        socks = self._sockets(descriptors)
        try:
            if isinstance(request, Take):
                return Taken(migration.take(request.sockets, socks, request.flows))
            return Adopted(len(request.sockets), migration.adopt(request.sockets, socks, request.flows))
        except Exception:
            for sock in socks:
                sock.close()
            raise
        finally:
            self._plane.context.totals.adopt_seconds += time.perf_counter() - start

    def _sockets(self, descriptors: list[int]) -> list[socket.socket]:
        socks: list[socket.socket] = []
        try:
            while descriptors:
                socks.append(self._plane.context.kernel.adopted(descriptors[0]))
                descriptors.pop(0)
        except OSError as error:
            for sock in socks:
                sock.close()
            raise ProxyError(Code.SOCKET_UNUSABLE, f"descriptor {len(socks)} is no socket") from error
        return socks

    def _answer(self, agent: socket.socket, answer: Answer) -> None:
        try:
            agent.send(_encode(answer))
        except (BrokenPipeError, ConnectionResetError):
            log.info("the agent has gone without its answer")
        except OSError as error:
            log.warning("the agent did not take its answer: %s", error.strerror)
            self._drop(agent)

    def _drop(self, agent: socket.socket) -> None:
        if agent in self._agents:
            self._agents.discard(agent)
            self._poller.forget(agent)
            agent.close()


def _has_left(agent: socket.socket) -> bool:
    """Whether its end is closed, though what it has said before can still be read."""
    poll = select.poll()
    poll.register(agent, 0)
    return bool(poll.poll(0))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    descriptors.clear()
