"""A flow at the source: held, then sent on to the destination over a link that it asks for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from proxy.api import Endpoint
from proxy.core import hold
from proxy.core.flow import Event, State
from proxy.core.ledger import Live, Snapshot
from proxy.core.wire import Join, Open
from proxy.io.context import Context
from proxy.io.flow import Direction, Flow
from proxy.io.link import DialledLink, LinkPool
from proxy.io.relay import discard, make_ready
from proxy.sys import limits, options


class SourceFlow(Flow):
    """A held or relayed flow at the source: its leg faces the peer."""

    side = "source"
    RETRY_SECONDS, GIVE_UP_SECONDS = 0.1, 10.0
    """A link that cannot be dialled is tried again while nothing has been sent: the peer waits, nothing is lost."""

    def __init__(
        self,
        context: Context,
        number: int,
        peer: Endpoint,
        local: Endpoint,
        direction: Direction,
        state: State,
        leg: socket.socket,
        ended: Callable[[Flow], None],
        links: LinkPool,
    ) -> None:
        super().__init__(context, number, peer, local, direction, state, leg, ended)
        self.links = links
        self.snapshot: Snapshot | None = None
        self.live: Live | None = None
        self.opening: Open | None = None
        self.switching: asyncio.Future[bool] | None = None
        """The answer to the last request for another link (`proxy.io.switching`)."""
        self.began = context.loop.time()
        self.inherited = False
        """Its leg is the other end of an app leg of ours: the peer leg is elsewhere, and will find its own way."""
        self.buffer = limits.Buffer()
        self._held = 0
        self._dialled: DialledLink | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._give_up_at = 0.0

    # The hold

    def limit(self, share_bytes: int) -> None:
        """Bound what the peer may add (see proxy.core.hold)."""
        assert self.live
        offer, share = hold.left(self.live.offered, share_bytes, self.arrived_since_adoption())
        self.buffer.limit(self.context.kernel, self.leg, offer, share)

    def arrived_since_adoption(self) -> int:
        return self._readable() - self.live.unread if self.live else 0

    def unhold(self) -> None:
        self.buffer.restore(self.context.kernel, self.leg)

    def skip_unread(self) -> None:
        assert self.snapshot
        self._held = self._readable() - self.snapshot.inq_len
        make_ready(self.leg)
        skipped = discard(self.leg, self.snapshot.inq_len, self.context.scratch)
        if skipped != self.snapshot.inq_len:
            self.error = f"only {skipped} of {self.snapshot.inq_len} bytes of the image were in the socket"
            self.context.loop.call_soon(self.tell, Event.LEG_FAILED)

    # The link

    def seek_link(self) -> None:
        self._give_up_at = self.context.loop.time() + self.GIVE_UP_SECONDS
        self._ask()

    def _ask(self) -> None:
        self._retry = None
        self._dialled = self.links.ask(self.opening or Join(self.number), self)

    def link_sendable(self, link: DialledLink) -> None:
        self.path.first(link.sock)
        self.tell(Event.LINK_READY)

    def relay(self) -> None:
        self.path.give()

    def link_accepted(self, rest: bytes) -> None:
        self.path.take(rest)

    def link_lost(self, why: str, sent: bool) -> None:
        if self.is_over:
            return
        if sent or self.context.loop.time() >= self._give_up_at:
            self.tell(Event.LINK_REFUSED, why)
        else:
            self._retry = self.context.loop.call_later(self.RETRY_SECONDS, self._ask)

    def reset_link(self) -> None:
        self._abandon_link()
        super().reset_link()

    def close_link(self) -> None:
        self._abandon_link()
        super().close_link()

    def _abandon_link(self) -> None:
        if self._retry:
            self._retry.cancel()
        if self._dialled:
            self._dialled.abandon()

    # Numbers

    def _readable(self) -> int:
        return self.context.kernel.queued(self.leg, options.SIOCINQ)

    @property
    def unread_bytes(self) -> int:
        return self.snapshot.inq_len if self.snapshot else 0

    @property
    def unsent_bytes(self) -> int:
        return self.snapshot.outq_len if self.snapshot else 0

    @property
    def held_bytes(self) -> int:
        if self.state is State.HELD and self.snapshot:
            return self._readable() - self.snapshot.inq_len
        return self._held
