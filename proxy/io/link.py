"""The initiator's end of links: dial, greet, and later name the flow that the link is for."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxy.api import Endpoint
from proxy.core import handshake
from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Dialling
from proxy.core.wire import Decoder, Hello, Join, Open, Refused, Switch, WireError, encode
from proxy.io.context import Context
from proxy.sys import address

ANSWER_BYTES = 4096  # one read while answers are due; what is behind them is the flow's and is handed on


class LinkUser(Protocol):
    """Who a link works for: a flow at the source."""

    def link_sendable(self, link: DialledLink) -> None:
        """Connected, and the flow is named: bytes sent now are the flow's."""

    def link_accepted(self, rest: bytes) -> None:
        """The destination has accepted: bytes read now are the flow's; `rest` are the first of them."""

    def link_lost(self, why: str, sent: bool) -> None:
        """It broke before that, or was refused. If nothing was `sent`, another link may be tried."""


class DialledLink:
    """One link until its flow takes the socket over. Never blocks; every failure reaches its user or its pool once."""

    def __init__(
        self, context: Context, destination: Endpoint, hello: bytes, idled: Callable[[DialledLink], None]
    ) -> None:
        self.state = Dialling.GREETING
        self.why_lost = ""
        self.refusal = ""
        """The code with which the destination said no."""
        self._poller = context.poller
        self._idled = idled
        self._outbox = hello
        self._user: LinkUser | None = None
        self._decoder = Decoder()
        self._connected = False
        self._taken = False
        self._watching = True
        self.sock = link_socket(address.family(destination.host))
        code = self.sock.connect_ex((destination.host, destination.port))
        if code in (0, errno.EINPROGRESS):
            self._poller.write(self.sock, self._on_connected)
        else:
            context.loop.call_soon(self._lose, os.strerror(code))

    def ask(self, frame: Join | Open | Switch, user: LinkUser) -> None:
        """Name the flow. Its user hears link_sendable (perhaps before this returns), link_accepted or link_lost."""
        self.state = handshake.asked(self.state)
        self._user = user
        if self._connected:
            self._say(encode(frame))
        else:
            self._outbox += encode(frame)

    def close(self) -> None:
        self.let_go()
        self._poller.forget(self.sock)
        self.sock.close()

    def abandon(self) -> None:
        """Of no more use. A socket that its flow has taken is the flow's to close."""
        self.let_go()
        if not self._taken and self.sock.fileno() >= 0:
            self._poller.forget(self.sock)
            self.sock.close()

    def let_go(self) -> None:
        """Watch the socket no more; it is somebody else's."""
        if self._watching:
            self._watching = False
            self._poller.read(self.sock, None)  # the writer is the flow's by now

    def _on_connected(self) -> None:
        self._poller.write(self.sock, None)
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._lose(os.strerror(code))
            return
        self._connected = True
        self._poller.read(self.sock, self._on_answer)
        self._say(self._outbox)

    def _say(self, frames: bytes) -> None:
        """A few hundred bytes at most into an empty send buffer: taken whole, or the link is broken."""
        try:
            sent = self.sock.send(frames)
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        if sent != len(frames):
            self._lose("the link took a part of a frame")
        elif self._user:
            self._taken = True
            self._user.link_sendable(self)

    def _on_answer(self) -> None:
        try:
            data = self.sock.recv(ANSWER_BYTES)
            self._decoder.feed(data)
            self._take_answers()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error.strerror or str(error))
        except WireError as error:
            self._lose(f"the destination's proxy answered with {error}")
        else:
            if not data and self.state is not Dialling.REFUSED:
                self._lose("the destination's proxy hung up")

    def _take_answers(self) -> None:
        while self.state not in (Dialling.OPEN, Dialling.REFUSED) and (frame := self._decoder.next()):
            self.state = handshake.answered(self.state, frame)
            if isinstance(frame, Refused):
                self.refusal = frame.code
                self._lose(f"refused: {frame.code}: {frame.text}")
        if self.state is Dialling.IDLE:
            self._idled(self)
        elif self.state is Dialling.OPEN:
            self.let_go()
            if self._user:
                self._user.link_accepted(self._decoder.rest())

    def _lose(self, why: str) -> None:
        if self.sock.fileno() < 0:
            return
        self.why_lost = why
        self.state = Dialling.REFUSED
        self.abandon()
        self._idled(self)
        if self._user:
            self._user.link_lost(why, self._taken)


class LinkPool:
    """A migration's links that have not got a flow yet, and the dialling of more."""

    PREPARE_SECONDS = 5.0

    def __init__(self, context: Context, destination: Endpoint, migration: str, token: bytes) -> None:
        self._context = context
        self._destination = destination
        self._hello = encode(Hello(migration, token))
        self._idle: deque[DialledLink] = deque()
        self._greeting: set[DialledLink] = set()
        self._changed = asyncio.Event()
        self._why_lost = ""

    @property
    def idle(self) -> int:
        return len(self._idle)

    async def prepare(self, links: int) -> None:
        """Have that many links greeted and idle. Raises LINK_FAILED with the reason."""
        self._why_lost = ""
        try:
            await self._greet(links)
        except TimeoutError:
            self._why_lost = "no answer in time"
        except asyncio.CancelledError:
            self.close()
            raise
        if self._why_lost:
            self.close()
            raise ProxyError(Code.LINK_FAILED, f"link to {self._destination}: {self._why_lost}")

    async def _greet(self, links: int) -> None:
        for _ in range(links):
            self._greeting.add(self._dial())
        async with asyncio.timeout(self.PREPARE_SECONDS):
            while self._greeting and not self._why_lost:
                self._changed.clear()
                await self._changed.wait()

    def ask(self, frame: Join | Open | Switch, user: LinkUser) -> DialledLink:
        """Name a flow on an idle link, or on one dialled now."""
        link = self._idle.popleft() if self._idle else self._dial()
        link.ask(frame, user)
        return link

    def close(self) -> None:
        for link in (*self._idle, *self._greeting):
            link.close()
        self._idle.clear()
        self._greeting.clear()

    def _dial(self) -> DialledLink:
        return DialledLink(self._context, self._destination, self._hello, self._on_change)

    def _on_change(self, link: DialledLink) -> None:
        self._greeting.discard(link)
        if link.state is Dialling.IDLE:
            self._idle.append(link)
        else:
            if link in self._idle:
                self._idle.remove(link)
            self._why_lost = link.why_lost
        self._changed.set()


def link_socket(family: int) -> socket.socket:
    """Non-blocking, unbuffered, and dead within a minute of the other pod's silent death."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    tune_link(sock)
    return sock


def tune_link(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
