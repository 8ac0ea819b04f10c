"""The initiator's connections: dial, greet, and later name the link that one is for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from proxy.api import Endpoint
from proxy.core import handshake
from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Dialling
from proxy.core.wire import Accepted, Challenge, Decoder, Hello, Naming, Refused, WireError, encode
from proxy.io.connection import Connection, TlsConnection, link_socket, why
from proxy.io.context import Context
from proxy.sys import address

ANSWER_BYTES = 16 * 1024  # one read while answers are due; what is behind them is the link's and is handed on
CONNECT_SECONDS = 1.0
"""A broken network may be whole again: rather dial anew than wait for the kernel's next SYN."""
GREET_SECONDS = 5.0
PASSING = frozenset({Code.SHUTTING_DOWN.name.lower(), "timeout"})
"""Refusals that say nothing of the link that was asked for."""


@dataclass(frozen=True)
class Lost:
    """Why a connection was not had."""

    why: str
    refusal: str = ""
    """The code with which the other proxy said no."""
    port_closed: bool = False
    """The machine answered, and nobody listens."""

    @property
    def final(self) -> bool:
        return bool(self.refusal) and self.refusal not in PASSING


class LinkUser(Protocol):
    """Who a connection is dialled for: a link."""

    def link_sendable(self, dialled: DialledConnection) -> None:
        """The link is named: what is sent now is its stream."""

    def link_accepted(self, received: int, rest: bytes) -> None:
        """The other end has so much of ours; what is read now is its stream, and `rest` the first of it."""

    def link_lost(self, lost: Lost) -> None:
        """It broke before that, or was refused."""


class DialledConnection:
    """One connection until its link takes it over. Never blocks; every failure reaches its user or its pool once."""

    def __init__(self, context: Context, pool: LinkPool) -> None:
        self.state = Dialling.CONNECTING
        self.lost: Lost | None = None
        self.connection: Connection | None = None
        self._context = context
        self._pool = pool
        self._named: Naming | None = None
        self._user: LinkUser | None = None
        self._decoder = Decoder()
        self._over = False
        self._handed_over = False
        """Its link sends on it."""
        self._sock = link_socket(address.family(pool.destination.host))
        self._timer = context.loop.call_later(CONNECT_SECONDS, self._lose, Lost("no connection in time"))
        code = self._sock.connect_ex((pool.destination.host, pool.destination.port))
        if code in (0, errno.EINPROGRESS):
            context.poller.write(self._sock, self._on_connected)
        else:
            context.loop.call_soon(self._lose, Lost(os.strerror(code)))

    def ask(self, frame: Naming, user: LinkUser) -> None:
        """Name the link. Its user hears link_sendable (perhaps before this returns), link_accepted or link_lost."""
        self._named, self._user = frame, user
        if self.state in (Dialling.GREETING, Dialling.IDLE):
            self._name()

    def abandon(self) -> None:
        """Of no more use to anybody. A connection that its link sends on is the link's to close."""
        self._user = None
        self._stop()
        if not self._handed_over:
            self._context.poller.forget(self.connection or self._sock)
            (self.connection or self._sock).close()

    def _stop(self) -> None:
        self._over = True
        self._timer.cancel()
        self.state = Dialling.REFUSED

    # Connecting

    def _on_connected(self) -> None:
        self._context.poller.write(self._sock, None)
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._lose(Lost(os.strerror(code), port_closed=code == errno.ECONNREFUSED))
            return
        self._timer.cancel()
        self._timer = self._context.loop.call_later(GREET_SECONDS, self._lose, Lost("no answer in time"))
        if self._context.tls is None:
            self._speak(self._sock)
            return
        try:
            tls = self._context.tls.dialled(self._sock, self._pool.destination.host, self._pool.session)
        except (OSError, ValueError) as error:
            self._lose(Lost(str(error)))
            return
        self.connection = tls
        self._shake_hands(tls)

    def _shake_hands(self, tls: TlsConnection) -> None:
        try:
            writes = tls.handshake()
        except OSError as error:
            self._lose(Lost(why(error)))
            return
        poller = self._context.poller
        poller.write(tls, (lambda: self._shake_hands(tls)) if writes else None)
        poller.read(tls, (lambda: self._shake_hands(tls)) if writes is False else None)
        if writes is None:
            self._speak(tls)

    def _speak(self, connection: Connection) -> None:
        self.connection = connection
        self._context.poller.read(connection, self._on_answer)

    # Frames

    def _say(self, frame: bytes) -> None:
        """A few hundred bytes at most into an empty send buffer: taken whole, or the connection is broken."""
        assert self.connection
        if self.connection.send(frame) != len(frame):
            raise OSError(errno.EPIPE, "the link took a part of a frame")

    def _name(self) -> None:
        assert self._named
        assert self._user
        try:
            self.state = handshake.asked(self.state)
            self._say(encode(self._named))
        except OSError as error:
            self._lose(Lost(why(error)))
            return
        self._user.link_sendable(self)

    def hand_over(self) -> None:
        """Its link sends on it from now on, and closes it."""
        self._handed_over = True

    def _on_answer(self) -> None:
        assert self.connection
        try:
            data = self.connection.recv(ANSWER_BYTES)
            self._decoder.feed(data)
            self._take_answers()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(Lost(why(error)))
        except WireError as error:
            self._lose(Lost(f"the destination's proxy answered with {error}"))
        else:
            if not data and self.state is not Dialling.REFUSED:
                self._lose(Lost("the destination's proxy hung up"))

    def _take_answers(self) -> None:
        while self.state not in (Dialling.OPEN, Dialling.REFUSED) and (frame := self._decoder.next()):
            self.state = handshake.answered(self.state, frame)
            match frame:
                case Challenge(nonce):
                    self._say(self._pool.hello(nonce))
                    if self._named:
                        self._name()
                case Refused(code, text):
                    self._lose(Lost(f"refused: {code}: {text}", code))
                case Accepted(received) if self.state is Dialling.OPEN:
                    self._open(received)
                case _:
                    self._greeted()

    def _greeted(self) -> None:
        self._timer.cancel()
        if isinstance(self.connection, TlsConnection):
            self._pool.session = self.connection.session or self._pool.session
        if self.state is Dialling.IDLE:
            self._pool.changed(self)

    def _open(self, received: int) -> None:
        self._timer.cancel()
        self._over = self._handed_over = True
        user, self._user = self._user, None
        self._context.poller.read(self.connection or self._sock, None)
        if user:
            user.link_accepted(received, self._decoder.rest())

    def _lose(self, lost: Lost) -> None:
        if self._over:
            return
        self.lost = lost
        user = self._user
        self.abandon()
        self._pool.changed(self)
        if user:
            user.link_lost(lost)


class LinkPool:
    """A migration's connections that carry no link yet, and the dialling of more."""

    PREPARE_SECONDS = 5.0
    SECONDS_EACH = 0.005
    """And so much for each connection: most of it is TLS's, on both machines."""
    SPARES, SPARE_SECONDS = 16, 30.0
    """Standing by: so many connections are had beforehand, until none has been asked for for so long."""

    def __init__(
        self, context: Context, destination: Endpoint, migration: str, token: bytes, relink_seconds: float = 10.0
    ) -> None:
        self.destination = destination
        self.relink_seconds = relink_seconds
        """So long a link that breaks is dialled again."""
        self.session: ssl.SSLSession | None = None
        self._context = context
        self._migration = migration
        self._token = token
        self._idle: deque[DialledConnection] = deque()
        self._greeting: set[DialledConnection] = set()
        self._changed = asyncio.Event()
        self._why_lost = ""
        self._retreat: asyncio.TimerHandle | None = None
        """Set while it stands by."""

    @property
    def idle(self) -> int:
        return len(self._idle)

    def hello(self, nonce: bytes) -> bytes:
        return encode(Hello(self._migration, handshake.proof(self._token, nonce, self._migration)))

    async def prepare(self, links: int) -> None:
        """Have that many connections greeted and idle. Raises LINK_FAILED with the reason."""
        self._why_lost = ""
        try:
            async with asyncio.timeout(self.PREPARE_SECONDS + links * self.SECONDS_EACH):
                await self._greet(min(links, 1))  # the others' TLS handshakes are short, with its session
                await self._greet(links - 1)
        except TimeoutError:
            self._why_lost = self._why_lost or "no answer in time"
        except asyncio.CancelledError:
            self.close()
            raise
        if self._why_lost:
            self.close()
            raise ProxyError(Code.LINK_FAILED, f"link to {self.destination}: {self._why_lost}")

    async def _greet(self, links: int) -> None:
        for _ in range(links):
            self._greeting.add(self._dial())
        while self._greeting and not self._why_lost:
            self._changed.clear()
            await self._changed.wait()

    def ask(self, frame: Naming, user: LinkUser, *, fresh: bool = False) -> DialledConnection:
        """Name a link on an idle connection, or on one dialled now; `fresh`: the idle ones may be broken too."""
        connection = self._idle.popleft() if self._idle and not fresh else self._dial()
        connection.ask(frame, user)
        if self._retreat and not fresh:
            self.stand_by()
        return connection

    def stand_by(self) -> None:
        """From now on have some connections ready for those who come: they do not wait for TLS's handshake, then."""
        if self._retreat:
            self._retreat.cancel()
        self._retreat = self._context.loop.call_later(self.SPARE_SECONDS, self.close)
        while len(self._idle) > self.SPARES:
            self._idle.pop().abandon()
        with contextlib.suppress(OSError):  # no descriptor left: they can be done without
            while len(self._idle) + len(self._greeting) < self.SPARES:
                self._greeting.add(self._dial())

    def close(self) -> None:
        """Give up what carries nothing. What is asked for afterwards is dialled."""
        if self._retreat:
            self._retreat.cancel()
            self._retreat = None
        for connection in (*self._idle, *self._greeting):
            connection.abandon()
        self._idle.clear()
        self._greeting.clear()

    def _dial(self) -> DialledConnection:
        return DialledConnection(self._context, self)

    def changed(self, connection: DialledConnection) -> None:
        """Greeted, or lost."""
        self._greeting.discard(connection)
        if connection.state is Dialling.IDLE:
            self._idle.append(connection)
        else:
            if connection in self._idle:
                self._idle.remove(connection)
            if connection.lost:
                self._why_lost = connection.lost.why
        self._changed.set()
