"""The shell around `proxy.core.flow`: executes its commands on the flow's two sockets, and reports events to it."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Literal

from proxy.api import Endpoint, FlowView, LedgerLine
from proxy.core.flow import ENDED, Command, Event, State, step
from proxy.io.context import Context, count
from proxy.io.relay import Pump, finish
from proxy.sys.options import SIOCINQ, SIOCOUTQ

Direction = Literal["inbound", "outbound", "accepted"]


class Flow:
    """Either side's flow. `SourceFlow` and `DestinationFlow` add what only they can do."""

    side: Literal["source", "destination"]

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
    ) -> None:
        self.context = context
        self.number = number
        self.peer = peer
        self.local = local
        self.direction: Direction = direction
        self.state = state
        self.leg = leg
        self.link: socket.socket | None = None
        self.via = ""
        self.error = ""
        self._ended = ended
        self._from_leg: Pump | None = None
        self._from_link: Pump | None = None
        self._broken: socket.socket | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ENDED

    def tell(self, event: Event, error: str = "") -> None:
        """One event: the table decides, the commands are executed. Raises IllegalEvent, and nothing has changed."""
        self.state, commands = step(self.state, event)
        if error and not self.error:
            self.error = error
        for command in commands:
            _EXECUTE[command](self)
        if self.is_over and commands:
            count(self.context.totals.flows_ended, self.state.value)
            self.context.ended.set()
            self._ended(self)

    # What the table asks for

    def unhold(self) -> None:
        raise NotImplementedError

    def skip_unread(self) -> None:
        raise NotImplementedError

    def seek_link(self) -> None:
        raise NotImplementedError

    def leave_repair(self) -> None:
        raise NotImplementedError

    def relay(self) -> None:
        raise NotImplementedError

    def retire_route(self) -> None:
        """Only the destination has a route."""

    def fin_leg(self) -> None:
        finish(self.leg)

    def fin_link(self) -> None:
        if self.link:
            finish(self.link)

    def reset_leg(self) -> None:
        self._stop()
        self.context.drainer.forget(self.leg)
        self.context.drainer.reset(self.leg)

    def reset_link(self) -> None:
        self._stop()
        if self.link:
            self.context.drainer.reset(self.link)

    def close_leg(self) -> None:
        self._stop()
        self.leg.close()

    def close_link(self) -> None:
        self._stop()
        if self.link:
            self.link.close()

    def drain_leg(self) -> None:
        self._stop()
        self.context.drainer.wait(self.leg, lambda: self.tell(Event.LEG_DRAINED))

    # The relay

    def pump_from_leg(self, preface: bytes = b"") -> None:
        assert self.link
        self._from_leg = self._pump(self.leg, self.link, Event.LEG_EOF, Event.LEG_FAILED)
        self._from_leg.start(preface)

    def pump_from_link(self, preface: bytes = b"") -> None:
        assert self.link
        self._from_link = self._pump(self.link, self.leg, Event.LINK_EOF, Event.LINK_FAILED)
        self._from_link.start(preface)

    def watch_hangups(self) -> None:
        """From now on a reset is noticed on a socket that has ended its stream and is not written to either."""
        assert self.link
        self.context.poller.hangup(self.leg, lambda: self._hung_up(self._from_leg, Event.LEG_FAILED))
        self.context.poller.hangup(self.link, lambda: self._hung_up(self._from_link, Event.LINK_FAILED))

    def _hung_up(self, reader: Pump | None, failure: Event) -> None:
        if reader and not reader.running:  # else it is only waiting, and will see for itself
            self.tell(failure)

    def _pump(self, source: socket.socket, target: socket.socket, eof: Event, failure: Event) -> Pump:
        def ended() -> None:
            self.tell(failure if self._broken is source else eof)

        def failed(by_source: bool) -> None:
            if by_source:
                self.tell(failure)
            else:
                self._break(target)

        return Pump(self.context.poller, self.context.scratch, source, target, ended, failed)

    def _break(self, sock: socket.socket) -> None:
        """Sending failed, so the connection was reset. What came before the reset can still be read: deliver it first.

        The kernel reports a reset once, and then an end of stream: so remember whose it is.
        """
        self._broken = sock
        reader = self._from_link if sock is self.link else self._from_leg
        if reader is None or not reader.running:
            self.tell(Event.LINK_FAILED if sock is self.link else Event.LEG_FAILED)

    def _stop(self) -> None:
        """Move no more bytes and watch neither socket, as they are about to be closed."""
        for pump in (self._from_leg, self._from_link):
            if pump:
                pump.stop()
        for sock in (self.leg, self.link):
            if sock and sock.fileno() >= 0:
                self.context.poller.forget(sock)

    # What is told about it

    @property
    def from_leg_bytes(self) -> int:
        return self._from_leg.moved if self._from_leg else 0

    @property
    def from_link_bytes(self) -> int:
        return self._from_link.moved if self._from_link else 0

    @property
    def unread_bytes(self) -> int:
        return 0

    @property
    def unsent_bytes(self) -> int:
        return 0

    @property
    def held_bytes(self) -> int:
        return 0

    @property
    def to_app_bytes(self) -> int:
        return self.from_leg_bytes if self.side == "source" else self.from_link_bytes

    @property
    def to_peer_bytes(self) -> int:
        return self.from_link_bytes if self.side == "source" else self.from_leg_bytes

    def ledger_line(self) -> LedgerLine:
        return LedgerLine(
            flow=self.number,
            peer=self.peer,
            local=self.local,
            direction=self.direction,
            state=self.state.value,
            unread_bytes=self.unread_bytes,
            unsent_bytes=self.unsent_bytes,
            held_bytes=self.held_bytes,
            to_app_bytes=self.to_app_bytes,
            to_peer_bytes=self.to_peer_bytes,
            error=self.error,
            link_unacked_bytes=self._link_queue(SIOCOUTQ),
            link_waiting_bytes=self._link_queue(SIOCINQ) + self._from_link.kept_bytes if self._from_link else 0,
        )

    def _link_queue(self, request: int) -> int:
        """Bytes in the link's send or receive queue; none once it is closed, or while it is not ours to read yet."""
        if self.link is None or self.link.fileno() < 0:
            return 0
        return self.context.kernel.queued(self.link, request)

    def view(self, migration: str) -> FlowView:
        return FlowView(
            migration=migration,
            flow=self.number,
            side=self.side,
            peer=self.peer,
            local=self.local,
            via=self.via,
            direction=self.direction,
            state=self.state.value,
            held_bytes=self.held_bytes,
            to_app_bytes=self.to_app_bytes,
            to_peer_bytes=self.to_peer_bytes,
        )


class Ended:
    """A migration's flows that have ended: their bytes are added up, and their ledgers kept, but not for ever.

    Adopted flows are few and the driver asks for their ledgers; a relay may see connections come and go for months.
    """

    MAX_KEPT = 1024

    def __init__(self, context: Context) -> None:
        self._totals = context.totals
        self._kept: deque[int] = deque()

    def take(self, flow: Flow) -> list[int]:
        """One more; gives the numbers of those to forget."""
        self._totals.to_app_bytes += flow.to_app_bytes
        self._totals.to_peer_bytes += flow.to_peer_bytes
        if flow.direction == "accepted":
            self._kept.append(flow.number)
        return [self._kept.popleft()] if len(self._kept) > self.MAX_KEPT else []


_EXECUTE: dict[Command, Callable[[Flow], None]] = {
    command: (lambda name: lambda flow: getattr(flow, name)())(command.name.lower()) for command in Command
}
"""A command's method has its name; bound late, since the two sides override some of them."""
