"""The acceptor's end of links: greet strangers with suspicion, then hand each connection to the link it names."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Mapping
from functools import partial

from proxy.api import Leg
from proxy.core import handshake
from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Accepting
from proxy.core.wire import (
    NONCE_BYTES,
    Accepted,
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
    WireError,
    encode,
)
from proxy.io.accepted import AcceptedLink
from proxy.io.connection import Connection, TlsConnection, tune_accepted, why
from proxy.io.context import Context, count
from proxy.io.inbound import InboundMigration
from proxy.io.initiated import InitiatedLink
from proxy.io.inquiry import Inquiries
from proxy.io.link import Link
from proxy.sys import address

log = logging.getLogger(__name__)

GREETING_SECONDS = 5.0
MAX_STRANGERS = 1024  # links that have not shown a token; more wait in the kernel's backlog
ACCEPTS_A_CALLBACK = 64
FIRST_READ_BYTES = 16 * 1024  # frames and, behind them, the link's stream
ACCEPTED = encode(Accepted())


class IncomingConnection:
    """One connection until a link takes it."""

    def __init__(self, acceptor: Acceptor, sock: socket.socket, via: str) -> None:
        self.state = Accepting.NEW
        self.migration: InboundMigration | None = None
        self._token = b""
        """With which it proved itself."""
        self.via = via
        self._acceptor = acceptor
        self._connection: Connection = sock
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self.number = handshake.number(self._nonce)
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
        self._connection.close()

    def _shake_hands(self, tls: TlsConnection) -> None:
        try:
            writes = tls.handshake()
        except OSError as error:
            self._acceptor.refused(self, "tls", why(error))
            self._acceptor.drop(self)
            return
        self._acceptor.context.poller.write(tls, (lambda: self._shake_hands(tls)) if writes else None)
        if writes is None:
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
            case Join() | Open() | Switch() | Resume():
                self._name(frame)

    def _name(self, frame: Naming) -> None:
        assert self.migration
        migration = self.migration
        known = migration.links.get(frame.link)
        if known:
            self._go_on(known, frame)
            return
        match frame:
            case Join(flow):
                migration.awaiting(flow).join(self._link(frame.link, ACCEPTED))
            case Switch(flow):
                flow_here = migration.switching(flow)
                flow_here.succeed(self._link(frame.link, ACCEPTED), self.via)
            case Open():
                migration.open(frame, lambda: self._link(frame.link, mute=True))
            case _:
                raise ProxyError(Code.CONFLICT, f"no link {frame.link:x} of flow {frame.flow} is here")

    def bind(self, flow: int) -> None:
        """The flow's link is here, as its leg says. Raises CONFLICT if it cannot have one."""
        assert self.migration
        awaiting = self.migration.awaiting(flow)
        self.state = handshake.bound(self.state)
        awaiting.join(self._link(self.number))

    def _link(self, number: int, answer: bytes = b"", *, mute: bool = False) -> AcceptedLink:
        """The link that this connection is the first of. A mute one is answered for later."""
        assert self.migration
        migration, context = self.migration, self._acceptor.context
        patience, forget = migration.plan.relink_seconds, migration.forget_link
        link = AcceptedLink(context, number, self.via, patience, forget, self._come_back)
        link.inquire = partial(self._acceptor.inquiries.begin, migration.name, self._token)
        migration.links[number] = link
        if answer:
            self._send(answer)
        if mute:
            link.be_mute()
        self._hand_over()
        link.carry(self._connection, 0, self._decoder.rest())
        return link

    def _go_on(self, link: Link, frame: Naming) -> None:
        """The link's connection broke, or the initiator says so; it has received as much as it says, or nothing yet."""
        received = frame.received if isinstance(frame, Resume) else 0
        link.outgoing.since(received)  # raises, before anything is given up, if that cannot be
        if not link.is_mute:
            self._send(encode(Accepted(link.incoming.received)))
        self._hand_over()
        link.via = self.via
        count(self._acceptor.context.totals.links_broken, "resumed")
        link.carry(self._connection, received, self._decoder.rest())

    def _come_back(self) -> None:
        """The link that it carried is over at both ends: it may name another one."""
        if not self._acceptor.welcome_back(self):
            self._connection.close()
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
        self._deadline.cancel()
        if self._watched:
            self._watched = False
            self._acceptor.context.poller.forget(self._connection)


class Acceptor:
    """Listens for links."""

    def __init__(self, context: Context, listener: socket.socket, migrations: Mapping[str, InboundMigration]) -> None:
        self.context = context
        self._listener = listener
        self._migrations = migrations
        self._strangers: set[IncomingConnection] = set()
        self._known: set[IncomingConnection] = set()
        self._fresh: dict[int, IncomingConnection] = {}
        """Those of them that no link has had yet, by their number."""
        self.inquiries = Inquiries(context, listener.getsockname()[1])
        self._listening = False
        self._logged: set[str] = set()

    def start(self) -> None:
        self._listener.setblocking(False)
        self._listen(True)

    def close(self) -> None:
        self.inquiries.close()
        self.context.poller.forget(self._listener)
        for connection in (*self._strangers, *self._known):
            connection.close()
        self._strangers.clear()
        self._known.clear()
        self._fresh.clear()
        self._listener.close()

    def close_links_of(self, migration: InboundMigration) -> None:
        """Its connections that carry no link are of no more use."""
        for connection in [connection for connection in self._known if connection.migration is migration]:
            self.drop(connection)

    def authenticate(self, nonce: bytes, hello: Hello) -> tuple[InboundMigration, bytes]:
        """The migration, and which of its tokens was proved. Raises FORBIDDEN; says no more to a stranger than that."""
        migration = self._migrations.get(hello.migration)
        token = migration.proved(nonce, hello) if migration else None
        if migration is None or token is None:
            raise ProxyError(Code.FORBIDDEN, "no migration here has that id and token")
        return migration, token

    def answers(self, nonce: bytes, hello: Hello) -> bool:
        """Whether it is an acceptor of ours that asks (`proxy.io.inquiry`), and we have such links."""
        if hello.migration in self._migrations:
            return False
        pools = {link.pool for link in self.context.links if isinstance(link, InitiatedLink)}
        return any(pool.proved(nonce, hello) for pool in pools)

    def greeted(self, connection: IncomingConnection) -> None:
        self._strangers.discard(connection)
        self._known.add(connection)
        self._fresh[connection.number] = connection
        self._listen(True)

    def bind(self, migration: InboundMigration, legs: list[Leg]) -> None:
        """Let the flows have the links that their legs name, where these connections are here; others are joined."""
        for leg in legs:
            connection = self._fresh.get(leg.link)
            if connection and connection.migration is migration:
                connection.bind(leg.flow)

    def welcome_back(self, connection: IncomingConnection) -> bool:
        """Whether its migration is still here; then it is watched for as long as it is."""
        migration = connection.migration
        if migration is None or self._migrations.get(migration.name) is not migration:
            return False
        self._known.add(connection)
        return True

    def forget(self, connection: IncomingConnection) -> None:
        """A link has it."""
        self._strangers.discard(connection)
        self._known.discard(connection)
        self._fresh.pop(connection.number, None)
        self._listen(len(self._strangers) < MAX_STRANGERS)

    def drop(self, connection: IncomingConnection) -> None:
        self.forget(connection)
        connection.close()

    def refused(self, connection: IncomingConnection, reason: str, text: str) -> None:
        """Counted always, logged the first time: a scanner must not fill the log."""
        count(self.context.totals.links_refused, reason)
        if reason not in self._logged:
            self._logged.add(reason)
            log.warning("link from %s refused: %s (later ones are only counted)", connection.via, text)

    def _listen(self, wanted: bool) -> None:
        if wanted == self._listening:
            return
        self._listening = wanted
        self.context.poller.read(self._listener, self._accept if wanted else None)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_CALLBACK):
            if len(self._strangers) >= MAX_STRANGERS:
                self._listen(False)
                return
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("cannot accept a link: %s", error.strerror)
                return
            self._begin(sock, str(address.endpoint(peer)))

    def _begin(self, sock: socket.socket, via: str) -> None:
        try:
            tune_accepted(sock)
            self._strangers.add(IncomingConnection(self, sock, via))
        except OSError as error:
            log.debug("link from %s: %s", via, why(error))
            sock.close()
