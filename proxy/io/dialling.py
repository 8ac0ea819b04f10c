"""The initiator's end of one connection: dial, greet, and later name the link that it is for."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from ssl import SSLSession
from typing import Protocol

from proxy.api import Endpoint
from proxy.core import handshake
from proxy.core.errors import Code
from proxy.core.handshake import Dialling
from proxy.core.wire import Accepted, Asking, Challenge, Decoder, Refused, WireError, encode
from proxy.io.connection import Connection, TlsConnection, link_socket, why
from proxy.io.context import Context
from proxy.sys import address

ANSWER_BYTES = 16 * 1024  # one read while answers are due; what is behind them is the link's and is handed on
CONNECT_SECONDS = 1.0
"""A broken network may be whole again: rather dial anew than wait for the kernel's next SYN."""
GREET_SECONDS = 5.0
PASSING = frozenset({Code.SHUTTING_DOWN.name.lower(), Code.NO_DESCRIPTORS.name.lower(), "timeout"})
"""Refusals that say nothing of the link that was asked for."""


@dataclass(frozen=True)
class Lost:
    """Why a connection was not had."""

    why: str
    refusal: str = ""
    """The code with which the other proxy said no."""
    port_closed: bool = False
    """The machine answered, and nobody listens."""
    late: bool = False
    """Nobody answered in CONNECT_SECONDS, which a busy machine may take."""

    @property
    def final(self) -> bool:
        return bool(self.refusal) and self.refusal not in PASSING


class LinkUser(Protocol):
    """Who a connection is dialled for: a link, or a watch (`proxy.io.watch`)."""

    def link_dialled(self, dialled: DialledConnection) -> None:
        """This is the one; who wants it no more abandons it (`LinkPool.withdraw`)."""

    def link_sendable(self, dialled: DialledConnection) -> None:
        """The link is named: what is sent now is its stream."""

    def link_accepted(self, received: int, rest: bytes) -> None:
        """The other end has so much of ours; what is read now is its stream, and `rest` the first of it."""

    def link_lost(self, lost: Lost) -> None:
        """It broke before that, or was refused."""


class Owner(Protocol):
    """Who dials: a pool (`proxy.io.pool`)."""

    destination: Endpoint
    session: SSLSession | None
    """Of the last TLS handshake: the next one is shorter with it."""

    @property
    def has_room(self) -> bool: ...
    def hello(self, nonce: bytes) -> bytes: ...
    def changed(self, connection: DialledConnection) -> None: ...


class DialledConnection:
    """One connection until its link takes it over. Never blocks; every failure reaches its user or its pool once."""

    def __init__(self, context: Context, pool: Owner) -> None:
        self.state = Dialling.CONNECTING
        self.lost: Lost | None = None
        self.connection: Connection | None = None
        self.began = context.loop.time()
        self._context = context
        self._pool = pool
        self._named: Asking | None = None
        self._user: LinkUser | None = None
        self._decoder = Decoder()
        self._over = False
        self._handed_over = False
        """Its link sends on it."""
        self._offered: SSLSession | None = None
        """The pool's session, when this one's handshake began."""
        self._sock = link_socket(address.family(pool.destination.host))
        self._timer = context.loop.call_later(CONNECT_SECONDS, self._lose, Lost("no connection in time", late=True))
        code = self._sock.connect_ex((pool.destination.host, pool.destination.port))
        if code in (0, errno.EINPROGRESS):
            context.poller.write(self._sock, self._on_connected)
        else:
            context.loop.call_soon(self._lose, Lost(os.strerror(code)))

    def ask(self, frame: Asking, user: LinkUser) -> None:
        """Name the link, or say WATCH. Its user hears link_sendable, perhaps before this returns, and then
        link_accepted or link_lost.
        """
        self._named, self._user = frame, user
        user.link_dialled(self)
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
        self._context.poller.forget(self._sock)  # TLS may close it
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._lose(Lost(os.strerror(code), port_closed=code == errno.ECONNREFUSED))
            return
        self._timer.cancel()
        self._timer = self._context.loop.call_later(GREET_SECONDS, self._lose, Lost("no answer in time"))
        if self._context.tls is None:
            self._speak(self._sock)
            return
        self._offered = self._pool.session
        try:
            tls = self._context.tls.dialled(self._sock, self._pool.destination.host, self._offered)
        except (OSError, ValueError) as error:
            self._lose(Lost(str(error)))
            return
        self.connection = tls
        self._shake_hands(tls)

    def _shake_hands(self, tls: TlsConnection) -> None:
        try:
            done = tls.handshake()
        except OSError as error:
            self._lose(Lost(why(error)))
            return
        if done:
            self._speak(tls)
        else:
            self._context.poller.read(tls, lambda: self._shake_hands(tls))

    def _speak(self, connection: Connection) -> None:
        self.connection = connection
        self._context.poller.read(connection, self._on_answer)

    def come_back(self, *, of_use: bool = True) -> None:
        """Its link is over at both ends, or asleep: it may carry another one, unless it is of no more use."""
        assert self.connection
        self.state = handshake.freed(self.state)
        self._over = self._handed_over = False
        self._named = None
        if of_use and self._pool.has_room:
            self._speak(self.connection)
            self._pool.changed(self)
        else:
            self.abandon()

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
        # One of many that began without: each that is asked for is 6 KiB, which Python 3.11 does not free again.
        if isinstance(self.connection, TlsConnection) and self._pool.session is self._offered:
            self._pool.session = self.connection.session or self._offered
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
