"""The acceptor's end of links: greet strangers with suspicion, then hand each link to the flow it names."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

from proxy.core import handshake
from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Accepting
from proxy.core.wire import Accepted, Decoder, Frame, Hello, Join, Open, Refused, Switch, WireError, encode
from proxy.io.context import Context, count
from proxy.io.inbound import InboundMigration
from proxy.io.link import tune_link
from proxy.sys import address

log = logging.getLogger(__name__)

GREETING_SECONDS = 5.0
MAX_STRANGERS = 1024  # links that have not shown a token; more wait in the kernel's backlog
ACCEPTS_A_CALLBACK = 64
FIRST_READ_BYTES = 16 * 1024  # frames and, behind them, the flow's first bytes
ACCEPTED = encode(Accepted())


class IncomingLink:
    """One link until a flow takes its socket."""

    def __init__(self, acceptor: Acceptor, sock: socket.socket, via: str) -> None:
        self.state = Accepting.NEW
        self.migration: InboundMigration | None = None
        self.sock = sock
        self.via = via
        self._acceptor = acceptor
        self._decoder = Decoder()
        self._watched = True
        acceptor.context.poller.read(sock, self._readable)
        self._deadline = acceptor.context.loop.call_later(GREETING_SECONDS, self._late)

    def close(self) -> None:
        self._let_go()
        self.sock.close()

    def _readable(self) -> None:
        try:
            data = self.sock.recv(FIRST_READ_BYTES)
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
            case Hello(name, token):
                self.migration = self._acceptor.authenticate(name, token)
                self._deadline.cancel()
                self._acceptor.greeted(self)
                self._send(ACCEPTED)
            case Join(flow):
                self._give_to(flow)
            case Switch(flow):
                self._follow(flow)
            case Open():
                self._open(frame)

    def _give_to(self, flow: int) -> None:
        assert self.migration
        waiting = self.migration.awaiting(flow)
        if not self._send(ACCEPTED):
            waiting.path.broke(self.sock)
        self._hand_over()
        waiting.join(self.sock, self._decoder.rest(), self.via)

    def _follow(self, flow: int) -> None:
        assert self.migration
        switching = self.migration.switching(flow)
        if not self._send(ACCEPTED):
            switching.path.broke(self.sock)
        self._hand_over()
        switching.succeed(self.sock, self._decoder.rest(), self.via)

    def _open(self, frame: Open) -> None:
        assert self.migration
        self._hand_over()
        self.migration.open(frame, self.sock, self._decoder.rest(), self.via, self._answer_open)

    def _answer_open(self, why: str) -> bool:
        return self._send(encode(Refused(Code.LEG_NOT_BUILT.name.lower(), why)) if why else ACCEPTED)

    def _send(self, frame: bytes) -> bool:
        """Into an empty send buffer: taken whole, or the link was reset. The kernel says so once: whoever reads what
        came before it will only see an end."""
        try:
            self.sock.send(frame)
        except OSError as error:
            log.debug("link from %s: %s", self.via, error)
            return False
        return True

    def _refuse(self, code: str, text: str, reason: str) -> None:
        self._acceptor.refused(self, reason, text)
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
            self._acceptor.context.poller.forget(self.sock)


class Acceptor:
    """Listens for links."""

    def __init__(self, context: Context, listener: socket.socket, migrations: Mapping[str, InboundMigration]) -> None:
        self.context = context
        self._listener = listener
        self._migrations = migrations
        self._strangers: set[IncomingLink] = set()
        self._known: set[IncomingLink] = set()
        self._listening = False
        self._logged: set[str] = set()

    def start(self) -> None:
        self._listener.setblocking(False)
        self._listen(True)

    def close(self) -> None:
        self.context.poller.forget(self._listener)
        for link in (*self._strangers, *self._known):
            link.close()
        self._strangers.clear()
        self._known.clear()
        self._listener.close()

    def close_links_of(self, migration: InboundMigration) -> None:
        """Its links that have no flow are of no more use."""
        for link in [link for link in self._known if link.migration is migration]:
            self.drop(link)

    def authenticate(self, name: str, token: bytes) -> InboundMigration:
        """Raises FORBIDDEN; says no more to a stranger than that."""
        migration = self._migrations.get(name)
        if migration is None or not migration.welcomes(token):
            raise ProxyError(Code.FORBIDDEN, "no migration here has that id and token")
        return migration

    def greeted(self, link: IncomingLink) -> None:
        self._strangers.discard(link)
        self._known.add(link)
        self._listen(True)

    def forget(self, link: IncomingLink) -> None:
        """A flow has its socket."""
        self._strangers.discard(link)
        self._known.discard(link)
        self._listen(len(self._strangers) < MAX_STRANGERS)

    def drop(self, link: IncomingLink) -> None:
        self.forget(link)
        link.close()

    def refused(self, link: IncomingLink, reason: str, text: str) -> None:
        """Counted always, logged the first time: a scanner must not fill the log."""
        count(self.context.totals.links_refused, reason)
        if reason not in self._logged:
            self._logged.add(reason)
            log.warning("link from %s refused: %s (later ones are only counted)", link.via, text)

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
            tune_link(sock)
            self._strangers.add(IncomingLink(self, sock, str(address.endpoint(peer))))
