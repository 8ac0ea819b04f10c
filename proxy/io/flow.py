"""The shell around `proxy.core.flow`: executes its commands on the flow's two sockets, and reports events to it."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from proxy.api import Endpoint, FlowView, LedgerLine
from proxy.core.flow import ALIVE, ENDED, Command, Event, State, step
from proxy.io.context import Context, count
from proxy.io.link import Link
from proxy.io.path import Path, Tally
from proxy.io.relay import finish

Direction = Literal["inbound", "outbound", "accepted", "datagrams"]


class Datagrams(Protocol):
    """What cuts a flow's stream into datagrams (`proxy.io.datagram_stream`)."""

    @property
    def is_idle(self) -> bool: ...

    @property
    def dropped(self) -> int: ...


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
        self.path = Path(context, leg, self.tell)
        """Until the flow is over."""
        self._tally: Tally | None = None
        """Then: what the path had moved."""
        self.via = ""
        self.error = ""
        self.given_up = ""
        """Why it cannot be kept."""
        self.turned_away = ""
        """Why a connection that the workload had not accepted where it was cannot be had where it is now."""
        self.datagrams: Datagrams | None = None
        self._ended = ended

    @property
    def is_over(self) -> bool:
        return self.state in ENDED

    @property
    def is_idle(self) -> bool:
        """A UDP socket's, and nobody has used it for long: nothing would be cut without it."""
        return self.datagrams is not None and self.datagrams.is_idle

    def tell(self, event: Event, error: str = "") -> None:
        """One event: the table decides, the commands are executed. Raises IllegalEvent, and nothing has changed."""
        self.state, commands = step(self.state, event)
        if error and not self.error:
            self.error = error
        ends = self.is_over and bool(commands)
        for command in commands:  # one may tell the next event
            _EXECUTE[command](self)
        if ends:
            count(self.context.totals.flows_ended, self.state.value)
            self.context.ended.set()
            self.let_go()
            self._ended(self)

    def let_go(self) -> None:
        """It is over: keep no more than its ledger needs, for that may be kept for long."""
        self._tally = self.path.tally
        del self.path

    # What the table asks of both sides; what it asks of one alone is that side's (`_EXECUTE`)

    def relay(self) -> None:
        self.path.relay()

    def retire_route(self) -> None:
        """Only the destination has a route."""

    def fin_leg(self) -> None:
        finish(self.leg)

    def fin_link(self) -> None:
        self.path.finish_links()

    def reset_leg(self) -> None:
        self._stop()
        self.context.drainer.forget(self.leg)
        self.context.drainer.reset(self.leg)

    def reset_link(self) -> None:
        self._stop()
        self.path.reset_links()

    def abandon_link(self) -> None:
        self.path.abandon_links()

    def close_leg(self) -> None:
        self._stop()
        self.leg.close()

    def close_link(self) -> None:
        self._stop()
        self.path.close_links()

    def drain_leg(self) -> None:
        self._stop()
        self.context.drainer.wait(self.leg, lambda: self.tell(Event.LEG_DRAINED))

    def _stop(self) -> None:
        self.path.stop()

    # Another link

    def succeed(self, link: Link, via: str) -> None:
        """A newer link, straight to where the workload is now. The flow must be alive (`can_switch`)."""
        self.via = via
        self.path.succeed(link)

    @property
    def can_switch(self) -> bool:
        return self.state in ALIVE and self.path.relays_both_ways

    # What is told about it

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
    def tally(self) -> Tally:
        return self._tally or self.path.tally

    @property
    def to_app_bytes(self) -> int:
        return self.tally.from_leg_bytes if self.side == "source" else self.tally.from_link_bytes

    @property
    def to_peer_bytes(self) -> int:
        return self.tally.from_link_bytes if self.side == "source" else self.tally.from_leg_bytes

    def ledger_line(self) -> LedgerLine:
        """The account with the proxy that the flow's first link leads to."""
        given, taken, unacked, waiting = self.tally.first_link()
        to_app, to_peer = (given, taken) if self.side == "source" else (taken, given)
        return LedgerLine(
            flow=self.number,
            peer=self.peer,
            local=self.local,
            direction=self.direction,
            state=self.state.value,
            unread_bytes=self.unread_bytes,
            unsent_bytes=self.unsent_bytes,
            held_bytes=self.held_bytes,
            to_app_bytes=to_app,
            to_peer_bytes=to_peer,
            error=self.error,
            given_up=self.given_up,
            turned_away=self.turned_away,
            dropped_datagrams=self.datagrams.dropped if self.datagrams else 0,
            link_unacked_bytes=unacked,
            link_waiting_bytes=waiting,
        )

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
            links=len(self.path.links),
            link=self.path.link.state.value if self.path.link else "",
        )


class Ended:
    """A migration's flows that have ended: their bytes are added up, and their ledgers kept, but not for ever.

    Adopted flows are few and the driver asks for their ledgers; a relay may see connections come and go for months.
    """

    MAX_KEPT = 1024

    def __init__(self, context: Context) -> None:
        self.keep = self.MAX_KEPT
        """So many ledgers of accepted flows are kept, and those of all adopted ones; 0: none at all."""
        self._totals = context.totals
        self._kept: deque[int] = deque()

    def take(self, flow: Flow) -> list[int]:
        """One more; gives the numbers of those to forget."""
        self._totals.to_app_bytes += flow.to_app_bytes
        self._totals.to_peer_bytes += flow.to_peer_bytes
        if not self.keep:
            return [flow.number]
        if flow.direction == "accepted":
            self._kept.append(flow.number)
        return [self._kept.popleft()] if len(self._kept) > self.keep else []


_EXECUTE: dict[Command, Callable[[Flow], None]] = {
    command: (lambda name: lambda flow: getattr(flow, name)())(command.name.lower()) for command in Command
}
"""A command's method has its name; bound late, since the two sides override some of them."""
