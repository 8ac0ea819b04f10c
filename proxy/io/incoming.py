"""One connection that came to the acceptor, from its first byte until a link takes it."""

from __future__ import annotations

import logging
import secrets
import socket
from functools import partial
from typing import Protocol

from proxy.core import handshake
from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Accepting
from proxy.core.wire import (
    NO_FLOW,
    NONCE_BYTES,
    Accepted,
    Bell,
    Challenge,
    Decoder,
    Frame,
    Hello,
    Join,
    Naming,
    Open,
    Refused,
    Resume,
    Switch,
    Watch,
    WireError,
    encode,
)
from proxy.io.accepted import AcceptedLink
from proxy.io.connection import Connection, TlsConnection, why
from proxy.io.context import Context, count
from proxy.io.inbound import InboundMigration
from proxy.io.inquiry import Inquiries

log = logging.getLogger(__name__)

GREETING_SECONDS = 5.0
FIRST_READ_BYTES = 16 * 1024  # frames and, behind them, the link's stream
ACCEPTED = encode(Accepted())


class Reception(Protocol):
    """Who took it in, and knows whom it may speak for: the acceptor."""

    context: Context
    inquiries: Inquiries

    def answers(self, nonce: bytes, hello: Hello) -> bool:
        """Whether it is an acceptor of ours that asks (`proxy.io.inquiry`), and we have such links."""

    def authenticate(self, nonce: bytes, hello: Hello) -> tuple[InboundMigration, bytes]:
        """The migration, and which of its tokens was proved. Raises FORBIDDEN."""

    def greeted(self, connection: IncomingConnection) -> None:
        """It is no stranger any more."""

    def welcome_back(self, connection: IncomingConnection) -> bool:
        """Whether it may name another link, now that its last one is over."""

    def has_ended(self, migration: str) -> bool:
        """Whether the workload that the migration has brought here is no more."""

    def forget(self, connection: IncomingConnection) -> None:
        """A link has it."""

    def drop(self, connection: IncomingConnection) -> None:
        """It is of no use: forget and close it."""

    def refused(self, connection: IncomingConnection, reason: str, text: str) -> None:
        """Count it, and perhaps log it."""


class IncomingConnection:
    """One connection until a link takes it."""

    def __init__(self, acceptor: Reception, sock: socket.socket, via: str) -> None:
        self.state = Accepting.NEW
        self.migration: InboundMigration | None = None
        self._token = b""
        """With which it proved itself."""
        self.via = via
        self._acceptor = acceptor
        self._connection: Connection = sock
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._decoder = Decoder()
        self._watched = True
        self._deadline = acceptor.context.loop.call_later(GREETING_SECONDS, self._late)
        if acceptor.context.tls is None:
            self._challenge()
        else:
            tls = self._connection = acceptor.context.tls.accepted(sock)
            acceptor.context.poller.read(tls, lambda: self._shake_hands(tls))

    def close(self) -> None:
        self._let_go()
        self._acceptor.context.poller.forget(self._connection)
        self._connection.close()

    def _shake_hands(self, tls: TlsConnection) -> None:
        try:
            done = tls.handshake()
        except OSError as error:
            self._acceptor.refused(self, "tls", why(error))
            self._acceptor.drop(self)
            return
        if done:
            self._challenge()

    def _challenge(self) -> None:
        self._acceptor.context.poller.read(self._connection, self._readable)
        self._send(encode(Challenge(self._nonce)))

    def _readable(self) -> None:
        try:
            data = self._connection.recv(FIRST_READ_BYTES)
            if not data:
                self._acceptor.drop(self)
                return
            self._decoder.feed(data)
            while self._watched and (frame := self._decoder.next()):
                self._take(frame)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._acceptor.drop(self)
        except WireError as error:
            self._refuse(Code.BAD_REQUEST.name.lower(), str(error), f"wire_{error.fault.name.lower()}")
        except ProxyError as error:
            code = error.code.name.lower()
            self._refuse(code, error.message, code)

    def _take(self, frame: Frame) -> None:
        self.state = handshake.accepting(self.state, frame)
        match frame:
            case Hello():
                if self._acceptor.answers(self._nonce, frame):
                    self._send(ACCEPTED)
                    self._acceptor.drop(self)
                    return
                self.migration, self._token = self._acceptor.authenticate(self._nonce, frame)
                self._deadline.cancel()
                self._acceptor.greeted(self)
                self._send(ACCEPTED)
            case Join() | Open() | Switch() | Resume() | Bell():
                self._name(frame)
            case Watch():
                assert self.migration
                if self._acceptor.has_ended(self.migration.name):
                    self.say_ended()

    def say_ended(self) -> None:
        """What a WATCH waits for."""
        assert self.migration
        self._send(
            encode(Refused(Code.WORKLOAD_ENDED.name.lower(), f"the workload of {self.migration.name} has ended"))
        )
        self._acceptor.drop(self)

    def _name(self, frame: Naming) -> None:
        assert self.migration
        migration = self.migration
        known = migration.links.get(frame.link)
        if known:
            self._go_on(known, frame)
            return
        match frame:
            case Join(flow) if flow == NO_FLOW:
                migration.reserve(lambda: self._link(frame.link, ACCEPTED))
            case Join(flow):
                migration.awaiting(flow).join(self._link(frame.link, ACCEPTED))
            case Switch(flow):
                flow_here = migration.switching(flow)
                flow_here.succeed(self._link(frame.link, ACCEPTED), self.via)
            case Bell():
                migration.bells.hang(self._link(frame.link, ACCEPTED))
            case Open():
                migration.open(frame, lambda: self._link(frame.link, mute=True))
            case _:
                raise ProxyError(Code.CONFLICT, f"no link {frame.link:x} of flow {frame.flow} is here")

    def _link(self, number: int, answer: bytes = b"", *, mute: bool = False) -> AcceptedLink:
        """The link that this connection is the first of. A mute one is answered for later."""
        assert self.migration
        migration = self.migration
        link = migration.make_link(number, self.via)
        self._give_to(link)
        if answer:
            self._send(answer)
        if mute:
            link.be_mute()
        self._hand_over()
        link.carry(self._connection, 0, self._decoder.rest())
        return link

    def _give_to(self, link: AcceptedLink) -> None:
        """It is the link's, until that is over, or sleeps; where the link came from is asked with what was proved."""
        assert self.migration
        link.via, link.come_back = self.via, self._come_back
        link.inquire = partial(self._acceptor.inquiries.begin, self.migration.name, self._token)

    def _go_on(self, link: AcceptedLink, frame: Naming) -> None:
        """The link slept, or its connection broke, or the initiator says so; it has received as much as it says, or
        nothing yet.
        """
        received = frame.received if isinstance(frame, Resume) else 0
        link.outgoing.since(received)  # raises, before anything is given up, if that cannot be
        if not link.is_mute:
            self._send(encode(Accepted(link.incoming.received)))
        self._hand_over()
        self._give_to(link)
        if not link.is_asleep:
            count(self._acceptor.context.totals.links_broken, "resumed")
        link.carry(self._connection, received, self._decoder.rest())

    def _come_back(self, of_use: bool) -> None:
        """The link that it carried is over at both ends, or asleep: it may name another one."""
        if not of_use or not self._acceptor.welcome_back(self):
            self.close()
            return
        self.state = handshake.freed(self.state)
        self._watched = True
        self._acceptor.context.poller.read(self._connection, self._readable)

    def _send(self, frame: bytes) -> None:
        """Into an empty send buffer: taken whole, or the link is broken, which its reader or its flow will notice."""
        try:
            self._connection.send(frame)
        except OSError as error:
            log.debug("link from %s: %s", self.via, why(error))

    def _refuse(self, code: str, text: str, reason: str) -> None:
        self._acceptor.refused(self, reason, text)
        if self.state is not Accepting.NEW or self._acceptor.context.tls is None:
            self._send(encode(Refused(code, text)))
        self._acceptor.drop(self)

    def _late(self) -> None:
        self._refuse("timeout", "no greeting in time", "timeout")

    def _hand_over(self) -> None:
        self._let_go()
        self._acceptor.forget(self)

    def _let_go(self) -> None:
        """What comes is not ours any more; whoever reads it next does so in our place."""
        self._deadline.cancel()
        self._watched = False
