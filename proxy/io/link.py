"""A link: carries one flow between two proxies, over one connection after the other (`proxy.core.stream`).

`InitiatedLink` dials, and dials again when a connection breaks (`proxy.io.initiated`); `AcceptedLink` waits for that
(`proxy.io.accepted`). A link outlives its flow until all that was given to it, END or RESET included, is acknowledged;
what it does with its connections is `proxy.io.carrier`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.core.link import Event, State
from proxy.core.stream import ACK_BYTES, HEADER, HEADER_BYTES, MAX_DATA_BYTES, Mark
from proxy.core.wire import WireError
from proxy.io.carrier import Carrier
from proxy.io.context import Context
from proxy.io.relay import Giver, Leg, Taker

_DATA = int(Mark.DATA) << 24
RESET_SECONDS = 1.0
"""How long a reset waits for a leg to take the bytes that came before it, as its sender had sent them."""


class LinkUser(Protocol):
    """Who a link works for: a flow's path."""

    def link_ended(self, link: Link) -> None:
        """The other end's stream has ended, and everything before that was handed on."""

    def link_failed(self, link: Link, why: str) -> None:
        """The flow was reset at the other end (`why` is empty then), or the link is lost."""


class Link(Carrier):
    """What its flow sees of it: give, take, and the ends of both streams."""

    def __init__(self, context: Context, number: int, via: str) -> None:
        super().__init__(context, number, via)
        self.taker = Taker(context.poller, self._handed)
        self._user: LinkUser | None = None
        self._giver: Giver | None = None
        self._taken = False
        """Its turn has come: before that an end is no news, if it follows another link."""
        self._told = False
        self._parted = False
        """Its flow takes nothing from it any more, and wants to hear nothing."""
        self._failure: str | None = None

    # Its flow

    def attach(self, user: LinkUser) -> None:
        """From now on `user` hears what happens; what has happened already, soon."""
        self._user = user
        if self._failure is not None:
            self.context.loop.call_soon(self._tell_failure)

    def detach(self) -> None:
        """The flow needs it no more; it sees its own end through."""
        self._user = None
        self._giver = None
        self.part()
        self._check()

    def part(self) -> None:
        """The flow takes nothing more. What it gave still goes, and how it ends is still to be said."""
        self.taker.stop()
        self._parted = True
        self._cut()

    def give_from(self, giver: Giver) -> None:
        self._giver = giver
        giver.start()

    def take_to(self, leg: Leg, failed: Callable[[], None]) -> None:
        self._taken = True
        self.taker.start(leg, failed)
        if self.incoming.mark:
            self._check_end()

    @property
    def has_room(self) -> bool:
        """For the longest frame: with less of it left, a window that was full would be given crumbs."""
        return self.outgoing.room >= MAX_DATA_BYTES and not self._line.pending

    def give(self, size: int) -> bool:
        """The first `size` bytes of the scratch buffer's body. Whether there is room for more."""
        scratch, outgoing = self.context.scratch, self.outgoing
        self._said = acknowledged = self.incoming.delivered
        HEADER.pack_into(scratch.view, 0, _DATA | size, acknowledged)
        length = HEADER_BYTES + size
        line = self._line
        frame = scratch.keep(length)
        outgoing.keep(frame, size)
        sent = line.send(frame)
        if sent < length:
            if line.connection is None:
                self._stir()
            else:
                line.queue(memoryview(frame)[sent:])
        return self.has_room

    def end(self) -> None:
        """The flow's stream has ended here."""
        if not self.outgoing.mark:
            self._close(Mark.END)

    def reset(self) -> None:
        """The flow was reset here; the other end hears of it behind the last byte that was given."""
        self._close(Mark.RESET)
        self.detach()

    def conclude(self) -> None:
        """The flow is over: in order if both streams have ended, else it is reset."""
        if self.outgoing.mark is Mark.END and self.incoming.mark is Mark.END and self.incoming.handed_on:
            self.detach()
        else:
            self.reset()

    def _close(self, mark: Mark) -> None:
        before = self.outgoing.given
        self.outgoing.close(mark)
        if self.outgoing.given > before and self.state is not State.OVER:
            self._say(mark)

    def _take(self, view: memoryview) -> None:
        incoming = self.incoming
        try:
            pieces = incoming.take(view)
            if incoming.acknowledged > self.outgoing.acknowledged:
                if freed := self.outgoing.acknowledge(incoming.acknowledged):
                    self.context.scratch.give_back(freed)
                self._go_on()
        except WireError as error:
            self._distrust(error)
            return
        if pieces:
            self.taker.take(pieces)
        if incoming.mark:
            self._check_end()
        if self.outgoing.mark:
            self._check()
        if incoming.turn:
            self._heed(incoming.turn)

    def _handed(self, size: int) -> None:
        """So much more was handed on to the leg, or dropped with it."""
        incoming = self.incoming
        incoming.delivered += size
        if incoming.delivered - self._said >= ACK_BYTES:
            self._acknowledge()
        else:
            self.context.unsaid.add(self)
        if incoming.mark:
            self._check_end()

    def _go_on(self) -> None:
        if self._giver:
            self._giver.go_on()

    # Its end

    def _check_end(self) -> None:
        """END or RESET has come: tell, once everything before it was handed on."""
        if not self.incoming.handed_on:
            if self.incoming.mark is Mark.RESET and self._failure is None:
                self._failure = ""
                self.context.loop.call_later(RESET_SECONDS, self._tell_failure)
            return
        if self.incoming.mark is Mark.RESET:
            self.incoming.delivered = self.incoming.received
            if self.incoming.ended and self._taken and not self._told and self._user and not self.outgoing.mark:
                self._told = True
                # In one go with the reset: a workload is to see both, for it sees EPIPE then.
                self._user.link_ended(self)
            self._failure = ""
            self._tell_failure()
        elif self._taken and not self._told and self._user:
            self._told = True
            self.incoming.delivered = self.incoming.received
            self._acknowledge()
            self._user.link_ended(self)
        elif self.taker.discarding:
            self.incoming.delivered = self.incoming.received
        self._check()

    def _tell_failure(self) -> None:
        user, self._user = self._user, None
        if user and self._failure is not None:
            self.taker.stop()
            user.link_failed(self, self._failure)

    @property
    def _is_needed(self) -> bool:
        return self._user is not None

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._tell_failure()

    def _over(self, event: Event) -> None:
        super()._over(event)
        self._cut()

    def _cut(self) -> None:
        """Once it is over and nobody's, let go of all that calls back into it: it is freed with its last owner.

        Else it would wait for the collector of cycles, which comes more and more seldom to what lasted for a while.
        """
        if self._parted and self.state is State.OVER:
            self._user = self._giver = None
            self.taker.cut()
            self._line.cut()
