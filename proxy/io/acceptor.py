"""The acceptor's end of links: who is let in, who is still a stranger, and which connections carry nothing yet."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

from proxy.core.errors import Code, ProxyError
from proxy.core.handshake import Accepting
from proxy.core.wire import Hello
from proxy.io.connection import tune_accepted, why
from proxy.io.context import Context, count
from proxy.io.inbound import InboundMigration
from proxy.io.incoming import IncomingConnection
from proxy.io.initiated import InitiatedLink
from proxy.io.inquiry import Inquiries
from proxy.sys import address, limits

log = logging.getLogger(__name__)

MAX_STRANGERS = 1024  # links that have not shown a token; more wait in the kernel's backlog
ACCEPTS_A_CALLBACK = 64


class Acceptor:
    """Listens for links."""

    def __init__(self, context: Context, listener: socket.socket, migrations: Mapping[str, InboundMigration]) -> None:
        self.context = context
        self._listener = listener
        self._migrations = migrations
        self._strangers: set[IncomingConnection] = set()
        self._known: set[IncomingConnection] = set()
        self.inquiries = Inquiries(context, listener.getsockname()[1])
        self._ended: set[str] = set()
        """The migrations whose workloads are no more, of those too that a proxy before this one knew."""
        self._listening = self._closed = False
        self._logged: set[str] = set()

    def start(self) -> None:
        self._listener.setblocking(False)
        self._listen(True)

    def close(self) -> None:
        self._closed = True
        self.inquiries.close()
        self.context.poller.forget(self._listener)
        for connection in (*self._strangers, *self._known):
            connection.close()
        self._strangers.clear()
        self._known.clear()
        self._listener.close()

    def close_links_of(self, migration: InboundMigration) -> None:
        """Its connections that carry no link are of no more use."""
        for connection in [connection for connection in self._known if connection.migration is migration]:
            self.drop(connection)

    def end(self, migration: str) -> int:
        """The workload that it has brought here has ended. Gives how many proxies had waited to hear that."""
        self._ended.add(migration)
        waiting = [
            each
            for each in self._known
            if each.state is Accepting.WATCHING and each.migration and each.migration.name == migration
        ]
        for connection in waiting:
            connection.say_ended()
        return len(waiting)

    def has_ended(self, migration: str) -> bool:
        return migration in self._ended

    def authenticate(self, nonce: bytes, hello: Hello) -> tuple[InboundMigration, bytes]:
        """The migration, and which of its tokens was proved. Raises FORBIDDEN, which is all that a stranger is told, or
        WORKLOAD_ENDED, where nobody knows its token any more.
        """
        migration = self._migrations.get(hello.migration)
        if migration is None and hello.migration in self._ended:
            raise ProxyError(Code.WORKLOAD_ENDED, f"the workload of {hello.migration} has ended")
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
        if connection.migration:
            connection.migration.expect(connection.via)
        self._listen(True)

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
            if not self.context.lending.take():
                self._seek()
                return
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("cannot accept a link: %s", error.strerror)
                self._seek()
                return
            self._begin(sock, str(address.endpoint(peer)))

    def _seek(self) -> None:
        """They wait in the kernel's backlog for a descriptor."""
        self._listen(False)
        self.context.lending.seek(self)

    @property
    def wanted(self) -> int:
        """So many connections wait there."""
        return 0 if self._listening or self._closed else limits.waiting(self.context.kernel, self._listener)

    @property
    def is_crowded(self) -> bool:
        return False

    def go_on(self) -> None:
        """There may be descriptors."""
        if not self._closed:
            self._listen(True)
            self._accept()

    def _begin(self, sock: socket.socket, via: str) -> None:
        try:
            tune_accepted(sock)
            self._strangers.add(IncomingConnection(self, sock, via))
        except OSError as error:
            log.debug("link from %s: %s", via, why(error))
            sock.close()
