"""Whether the proxy that links came from still has them: asked when they break, as that proxy may have died.

The acceptor of a link cannot make it again. It would wait for as long as the initiator may take; so it dials the
initiator's own link port and says HELLO, as for a link. A proxy that has no link of the migration refuses that, and so
does one that was started since; where nobody listens it is asked for a little longer, for it may be just starting.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from proxy.api import Endpoint
from proxy.core.errors import Code
from proxy.core.handshake import Dialling
from proxy.io.accepted import AcceptedLink
from proxy.io.context import Context
from proxy.io.dialling import DialledConnection
from proxy.io.pool import LinkPool
from proxy.sys import address

STRANGER = Code.FORBIDDEN.name.lower()


class Inquiry(LinkPool):
    """Asks one proxy about one migration, while links of that kind are broken."""

    SOONEST_SECONDS, LATEST_SECONDS = 0.25, 2.0
    """Before it asks for the first time and between later ones: the initiator dials again at once, if it lives."""
    GONE_SECONDS = 2.0
    """So long nobody may listen there."""

    def __init__(
        self, context: Context, whom: Endpoint, migration: str, token: bytes, ended: Callable[[], None]
    ) -> None:
        super().__init__(context, whom, migration, token)
        self._links: set[AcceptedLink] = set()
        self._finished = ended
        self._timer = context.loop.call_later(self.SOONEST_SECONDS, self._ask)
        self._interval = self.SOONEST_SECONDS
        self._asking: DialledConnection | None = None
        self._closed_since = 0.0

    def add(self, link: AcceptedLink) -> None:
        self._links.add(link)

    def close(self) -> None:
        self._timer.cancel()
        if self._asking:
            self._asking.abandon()
        self._asking = None
        self._links.clear()

    def _ask(self) -> None:
        self._links = {link for link in self._links if link.is_broken}
        if not self._links:
            self._finish()
            return
        try:
            self._asking = self._dial()
        except OSError:  # no descriptor left
            self._later()

    def changed(self, connection: DialledConnection) -> None:
        """It has answered, or has not."""
        if connection is not self._asking:
            return
        self._asking, lost = None, connection.lost
        if connection.state is Dialling.IDLE:
            connection.abandon()
        now = self._context.loop.time()
        if not (lost and lost.port_closed):
            self._closed_since = 0.0
        elif not self._closed_since:
            self._closed_since = now
        silent = self._closed_since and now - self._closed_since >= self.GONE_SECONDS
        if silent or (lost and lost.refusal == STRANGER):
            self._give_up()
        else:
            self._later()

    def _later(self) -> None:
        self._interval = min(2 * self._interval, self.LATEST_SECONDS)
        wait = self.SOONEST_SECONDS if self._closed_since else self._interval
        self._timer = self._context.loop.call_later(wait, self._ask)

    def _give_up(self) -> None:
        links = [link for link in self._links if link.is_broken]
        self._finish()
        for link in links:
            link.lose("it broke, and the proxy that it came from is gone")

    def _finish(self) -> None:
        self.close()
        self._finished()


class Inquiries:
    """All of a proxy's."""

    def __init__(self, context: Context, port: int) -> None:
        """`port`: where every proxy accepts links."""
        self._context = context
        self._port = port
        self._running: dict[tuple[str, str, bytes], Inquiry] = {}

    def begin(self, migration: str, token: bytes, link: AcceptedLink) -> None:
        """The link, which came with this token, has broken."""
        host = address.host_of(link.via)
        key = (migration, host, token)
        if key not in self._running:
            whom = Endpoint(host, self._port)
            self._running[key] = Inquiry(self._context, whom, migration, token, partial(self._running.__delitem__, key))
        self._running[key].add(link)

    def close(self) -> None:
        for inquiry in list(self._running.values()):
            inquiry.close()
        self._running.clear()
