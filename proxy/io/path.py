"""A flow's leg and its links: bytes both ways, over one link after the other (`proxy.core.succession`)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence

from proxy.core.flow import Event
from proxy.core.succession import Do, Succession
from proxy.io.context import Context
from proxy.io.link import Link
from proxy.io.relay import Giver


class Tally:
    """What a path has moved until now. The account of its first link goes on, for that may outlive the flow."""

    __slots__ = ("_first", "from_leg_bytes", "from_link_bytes")

    def __init__(self, links: Sequence[Link], before: Tally | None = None) -> None:
        """`before`: what went over links that the path had before these."""
        self.from_leg_bytes = sum(link.outgoing.payload for link in links)
        self.from_link_bytes = sum(link.taker.moved for link in links)
        self._first = (links[0].outgoing, links[0].incoming, links[0].taker.moved) if links else None
        if before:
            self.from_leg_bytes += before.from_leg_bytes
            self.from_link_bytes += before.from_link_bytes
            self._first = before._first

    def first_link(self) -> tuple[int, int, int, int]:
        """Of the first link alone: bytes given, bytes taken, given and not acknowledged, arrived and not taken.

        The two proxies that it joins hold these against each other; a successor has another proxy at its end.
        """
        if self._first is None:
            return 0, 0, 0, 0
        outgoing, incoming, taken = self._first
        return outgoing.payload, taken, outgoing.unacknowledged, incoming.payload - taken


class Path:
    """Both directions of one flow. Its events go to `tell`; after a failure or an end it does nothing by itself."""

    def __init__(self, context: Context, leg: socket.socket, tell: Callable[[Event, str], None]) -> None:
        self._context = context
        self._leg = leg
        self._tell = tell
        self._order = Succession()
        self._links: list[Link] = []
        """The flow's; those that it had before are freed when they have seen their ends through."""
        self._giver: Giver | None = None
        self._leg_ended = False
        self._leg_broken = False
        self._stopped = False
        self._dismissed = 0
        """So many links, the oldest, are not the flow's any more,"""
        self._before: Tally | None = None
        """and this is what went over them."""

    @property
    def link(self) -> Link | None:
        """The newest link."""
        return self._links[-1] if self._links else None

    @property
    def links(self) -> list[Link]:
        """Those that are the flow's."""
        return list(self._links)

    @property
    def relays_both_ways(self) -> bool:
        return self._giver is not None

    # The first link

    def first(self, link: Link) -> None:
        """The flow's first link; nothing is moved yet, what comes is kept."""
        self._links = [link]

    def drop_dead_link(self) -> bool:
        """Whether the first link was over before anything had gone over it: there is none then, as before it came."""
        if self._dismissed or not (self._links and self._links[0].is_over and self._links[0].is_unused):
            return False
        self._links.pop().part()
        return True

    def relay(self) -> None:
        """Move bytes both ways from now on. A reset of the leg is noticed, even while nobody reads it."""
        self._context.poller.hangup(self._leg, self._on_leg_hangup)
        self._links[0].attach(self)
        self._start_giving()
        self._start_taking()

    # Successors

    def expect(self) -> None:
        self._order.expect()

    def deny(self) -> None:
        self._do(self._order.deny())

    def succeed(self, link: Link) -> None:
        """A newer link, on which the flow's bytes are welcome."""
        self._links.append(link)
        link.attach(self)
        self._do(self._order.succeed())

    def _do(self, orders: list[Do]) -> None:
        for order in orders:
            match order:
                case Do.STOP_GIVING:
                    assert self._giver
                    self._giver.stop()
                    self._do(self._order.flushed())  # what was read of the leg is kept by its link
                case Do.GIVE:
                    self._numbered(self._order.giving - 1).end()
                    self._start_giving()
                case Do.TAKE:
                    self._start_taking()
                case Do.END:
                    self._tell(Event.LINK_EOF, "")
        self._dismiss()

    def _dismiss(self) -> None:
        """Let the links go that were given and read to their end."""
        while len(self._links) > 1 and self._dismissed < self._order.in_use:
            self._dismissed += 1
            link = self._links.pop(0)
            self._before = Tally([link], self._before)
            link.detach()

    def _numbered(self, number: int) -> Link:
        """As `Succession` counts them, from the very first."""
        return self._links[number - self._dismissed]

    # Both directions

    def _start_giving(self) -> None:
        link = self._numbered(self._order.giving)
        poller, scratch = self._context.poller, self._context.scratch
        self._giver = Giver(poller, scratch, self._leg, link, self._on_leg_end, self._on_leg_failed)
        if self._leg_ended:
            link.end()
        else:
            link.give_from(self._giver)

    def _start_taking(self) -> None:
        self._numbered(self._order.taking).take_to(self._leg, self._on_leg_unwritable)

    def link_ended(self, link: Link) -> None:
        if not self._stopped:
            self._do(self._order.link_ended())

    def link_failed(self, link: Link, why: str) -> None:
        if not self._stopped:
            self._tell(Event.LINK_FAILED, why)

    def _on_leg_end(self) -> None:
        if self._leg_broken:
            # As the kernel says it: EPIPE if the reset found the stream ended, else ECONNRESET (K: tcp_reset).
            if any(link.taker.error == errno.EPIPE for link in self.links):
                self.finish_links()
            self._on_leg_failed()
            return
        self._leg_ended = True
        self._tell(Event.LEG_EOF, "")

    def _on_leg_failed(self) -> None:
        self._tell(Event.LEG_FAILED, "")

    def _on_leg_unwritable(self) -> None:
        """Writing failed, so the leg was reset. What came before the reset can still be read: deliver it first.

        The kernel reports a reset once, and then an end of stream: so remember it.
        """
        self._leg_broken = True
        if not self._reads_leg:
            self._on_leg_failed()

    def _on_leg_hangup(self) -> None:
        """Reset, or only ended by both sides: the kernel announces that alike. Who reads it will see for itself."""
        if not self._reads_leg and (self._leg_broken or self._leg.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._on_leg_failed()

    @property
    def _reads_leg(self) -> bool:
        return self._giver is not None and self._giver.running

    # The end

    def stop(self) -> None:
        """Move no more bytes and do not watch the leg, as it is about to be closed.

        What a link still had for it is dropped, and with that perhaps at its end: nobody is told.
        """
        self._stopped = True
        if self._giver:
            self._giver.stop()
        self._giver = None
        for link in self.links:
            link.part()
        if self._leg.fileno() >= 0:
            self._context.poller.forget(self._leg)

    def finish_links(self) -> None:
        """The leg's stream has ended: so does the one into the newest link; an older one's has already."""
        self._numbered(self._order.giving).end()

    def reset_links(self) -> None:
        for link in self.links:
            link.reset()

    def abandon_links(self) -> None:
        for link in self.links:
            link.close()

    def close_links(self) -> None:
        """Both streams have ended, or the path has failed. In order all links see their own ends through: what comes
        over a successor that the other end has not ended yet is nothing but that end."""
        in_order = self._leg_ended and self._order.ended
        for link in self.links:
            if in_order:
                link.detach()
            else:
                link.conclude()

    @property
    def tally(self) -> Tally:
        return Tally(self._links, self._before)
