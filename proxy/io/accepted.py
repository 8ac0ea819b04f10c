"""The acceptor's end of a link: when its connection breaks it waits for the initiator, who can dial again; when it is
asleep and has something to carry, it rings for the initiator (`proxy.io.bell`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.link import Event, State
from proxy.core.stream import Mark
from proxy.core.wire import Fault, WireError
from proxy.io.connection import Connection
from proxy.io.context import Context
from proxy.io.link import Link


class AcceptedLink(Link):
    """The acceptor's end. `forget` is called when it is over, `come_back` when its connection carries it no more: with
    True, if that may carry another link."""

    GRACE_SECONDS = 5.0
    """It may notice the break earlier than the initiator (proxy.io.connection), and must not give up before it."""

    def __init__(
        self,
        context: Context,
        number: int,
        via: str,
        patience: float,
        forget: Callable[[Link], None],
        come_back: Callable[[bool], None] | None = None,
    ) -> None:
        super().__init__(context, number, via)
        self.come_back = come_back
        """Of the connection that it has."""
        self.ring: Callable[[AcceptedLink], None] | None = None
        """It is asleep, and to be woken: the initiator has to hear of that."""
        self._freeing = False
        self._yielded = False
        """It has asked for leave to give up its connection."""
        self._patience = patience
        self._forget = forget
        self._timer: asyncio.TimerHandle | None = None
        self.inquire: Callable[[AcceptedLink], None] | None = None
        """It broke: see whether the initiator's proxy is still there."""

    @property
    def is_broken(self) -> bool:
        return self.state is State.BROKEN

    def carry(self, connection: Connection, received: int, rest: bytes = b"", *, reads: bool = True) -> None:
        self._yielded = False
        super().carry(connection, received, rest, reads=reads)
        if not self.is_broken:  # it may be again, and waits for the next one
            self._stop_waiting()

    def _heed(self, turn: Mark) -> None:
        if turn is not Mark.SLEEP:
            self._distrust(WireError(Fault.ORDER))
        elif not (self._drowsy or self._freeing):
            self._doze(Mark.FREE)

    # Its sleep

    @property
    def may_rest(self) -> bool:
        return super().may_rest and not (self._yielded or self._freeing)

    def rest(self) -> None:
        """The initiator is asked to see to it; the descriptor is wanted here."""
        self._yielded = True
        self._say(Mark.YIELD)

    def _dozes(self) -> None:
        keeps, self._yielded = not self._yielded, False
        self._fall_asleep()
        if self.come_back:
            self.come_back(keeps)
        self._turn_over()

    def _rouse(self) -> None:
        if self.ring:
            self.ring(self)

    # Its end

    def _free(self) -> bool:
        """Says FREE; once that is on its way the connection is the acceptor's again."""
        if self.come_back is None:
            return False
        if not self._freeing:
            self._freeing = True
            self._say(Mark.FREE)  # and is back here when it has gone
        elif self._leave():
            self.come_back(True)
        return True

    def _renew(self, reason: str) -> None:
        self._stop_waiting()
        patience = self._patience + self.GRACE_SECONDS
        self._timer = self.context.loop.call_later(patience, self.lose, f"{reason}, and it was not made again")
        if self.inquire:
            self.inquire(self)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _over(self, event: Event) -> None:
        super()._over(event)
        self._stop_waiting()
        self._forget(self)
