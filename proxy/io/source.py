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
from proxy.io.dialling import Lost
from proxy.io.flow import Direction, Flow
from proxy.io.initiated import InitiatedLink, number
from proxy.io.pool import LinkPool
from proxy.io.relay import discard, make_ready
from proxy.sys import limits, options, repair


class SourceFlow(Flow):
    """A held or relayed flow at the source: its leg faces the peer."""

    side = "source"
    GIVE_UP_SECONDS = 10.0
    """So long a link that cannot be had is asked for again: the peer waits, nothing is lost."""

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
        self._asked: InitiatedLink | None = None

    # The hold

    def limit(self, share_bytes: int) -> None:
        """Bound what the peer may add (see proxy.core.hold)."""
        if self.live is None:  # it was only glanced at
            try:
                self.live = repair.read(self.context.kernel, self.leg)
            finally:
                repair.leave(self.context.kernel, self.leg)
        offer, share = hold.left(self.live.offered, share_bytes, self.arrived_since_adoption())
        self.buffer.limit(self.context.kernel, self.leg, offer, share)

    def arrived_since_adoption(self) -> int:
        return self._readable() - self.live.unread if self.live else 0

    def unhold(self) -> None:
        self.buffer.restore(self.context.kernel, self.leg)
        self.live = None

    def skip_unread(self) -> None:
        assert self.snapshot
        self._held = self._readable() - self.snapshot.inq_len
        make_ready(self.leg)
        skipped = discard(self.leg, self.snapshot.inq_len, self.context.scratch)
        if skipped != self.snapshot.inq_len:
            self.error = f"only {skipped} of {self.snapshot.inq_len} bytes of the image were in the socket"
            self.context.loop.call_soon(self.tell, Event.LEG_FAILED)

    # The link

    def reserve(self, link: InitiatedLink) -> None:
        """This is going to be its link: the destination's proxy hears of it in its leg."""
        link.be_for(self.number, self)
        self._asked = link

    def seek_link(self) -> None:
        if self._asked is None or self._asked.is_over:
            self._asked = InitiatedLink(self.context, self.links, self.opening or Join(self.number, number()), self)
        self._asked.dial(self.GIVE_UP_SECONDS)

    def link_ready(self, link: InitiatedLink) -> None:
        if not self.is_over:  # else the link says so: nobody takes what comes on it
            self.path.first(link)
            self.tell(Event.LINK_READY)

    def link_accepted(self, link: InitiatedLink) -> None:
        """The destination knows the flow."""

    def link_denied(self, link: InitiatedLink, lost: Lost) -> None:
        if not self.is_over:
            if self.inherited and self.direction == "accepted" and lost.refusal:
                self.turned_away = lost.why
            self.tell(Event.LINK_REFUSED, lost.why)

    @property
    def can_switch(self) -> bool:
        return super().can_switch and self._asked is not None and self._asked.accepted

    @property
    def is_on_its_way(self) -> bool:
        """A connection that came during or after the hold, and that the destination does not serve yet.

        (One that had waited to be accepted by the workload is not new.)
        """
        served = self._asked is not None and self._asked.accepted
        return self.direction == "accepted" and not self.inherited and not served and not self.is_over

    def let_go(self) -> None:
        super().let_go()
        self._asked = self.opening = self.switching = None

    def abandon_link(self) -> None:
        if self._asked:
            self._asked.close()

    def reset_link(self) -> None:
        super().reset_link()
        if self._asked and not self.path.link:
            self._asked.reset()

    def close_link(self) -> None:
        super().close_link()
        if self._asked and not self.path.link:
            self._asked.reset()

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
