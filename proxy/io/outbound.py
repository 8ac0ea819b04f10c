"""A migration at its source: adopted flows and listeners, held, then repointed or released."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from functools import partial
from typing import NamedTuple

import msgspec

from proxy.api import Endpoint, LedgerLine, Leg, PairedLeg, PrepareOutbound, Repointed, Switch, Switched
from proxy.core.alias import alias
from proxy.core.errors import Code, ProxyError
from proxy.core.flow import Event, State
from proxy.core.ledger import Live, Snapshot, TcpState
from proxy.core.migration import Call, Outbound, outbound
from proxy.core.wire import Open
from proxy.io import initiated
from proxy.io.addresses import KeptAddresses
from proxy.io.adopted import AdoptedSocket, ForeseenSocket, PairedSocket, examine, foresee_leg, glance, make_leg
from proxy.io.context import Context
from proxy.io.datagrams import HeldDatagrams
from proxy.io.deferred import Deferred
from proxy.io.flow import Direction, Ended, Flow
from proxy.io.hold_limit import HoldLimit
from proxy.io.initiated import InitiatedLink
from proxy.io.pool import LinkPool
from proxy.io.relay import make_ready
from proxy.io.reserved import ReservedLinks
from proxy.io.source import SourceFlow
from proxy.io.switching import Switching
from proxy.sys import address

log = logging.getLogger(__name__)

FLOW_BITS = 48  # a flow's number is random and unique for life, wherever the flow goes
LATER_SECONDS, LATER_SECONDS_EACH = 0.01, 60e-6
"""So long after the answer, and so much longer for each flow, what is left to do for the hold is done: the images are
sealed and the app legs built meanwhile, and the workload waits for that."""


class Ends(NamedTuple):
    """A connection's, and the number that it has wherever it goes."""

    number: int
    peer: Endpoint
    local: Endpoint
    app: Endpoint
    """The workload's, at the destination."""
    inherited: bool
    """The peer is an app leg of ours."""


class Expected(NamedTuple):
    """A connection that will be adopted, most likely, and the leg that can be built for it ahead."""

    ends: Ends
    direction: Direction
    leg: Leg


class OutboundMigration:
    """One migration at its source."""

    def __init__(self, context: Context, name: str, plan: PrepareOutbound) -> None:
        self.context = context
        self.name = name
        self.plan = plan
        self.state = Outbound.PREPARED
        self.destination = plan.destination
        self.target = name
        """The migration that brought the workload to where it is relayed to: this one, or a later one (`switch`)."""
        self.readdress = plan.readdress
        self._flows: dict[int, SourceFlow] = {}
        self.legs: dict[int, Leg] = {}
        self._foreseen: dict[int, Expected] = {}
        """What was named before the freeze, by the number that the agent has for each connection."""
        self.addresses = KeptAddresses(context, self._on_accepted)
        self.links = LinkPool(context, plan.destination, name, bytes.fromhex(plan.token), plan.relink_seconds)
        self._reserved = ReservedLinks(context, self.links)
        self._repointed: Repointed | None = None
        self._limit = HoldLimit(context, name, lambda: self.flows.values())
        self._later = Deferred(context.loop)
        self._ended = Ended(context)

    @property
    def flows(self) -> dict[int, SourceFlow]:
        self._later.do()
        return self._flows

    @property
    def live_flows(self) -> int:
        return sum(not flow.is_over and not flow.is_idle for flow in self.flows.values())

    async def prepare(self) -> None:
        """Dial at least one link, so that a destination that cannot be reached is known before the freeze."""
        lending, spare = self.context.lending, self.plan.spare_links
        lending.promise(self, self.plan.flows)
        try:
            links = min(self.plan.links, max(0, lending.room - spare))
            await self.links.prepare(max(1, links + spare))
            await self._reserved.prepare(links, self.plan.flows)
        except BaseException:
            lending.promise(self, 0)
            self._reserved.close()
            self.links.close()
            raise

    @property
    def ready_links(self) -> int:
        """How many are there to be used."""
        return self._reserved.ready + self.links.idle

    def foresee(self, wanted: list[ForeseenSocket]) -> list[Leg]:
        """What the destination can build before the freeze, for connections that the workload still has in its hands.

        Raises WRONG_STATE.
        """
        self.state = outbound(self.state, Call.FORESEE)
        for item in wanted:
            ends = self._ends(item.flow, item.peer, item.local)
            leg = foresee_leg(ends.number, ends.peer, ends.app, item.mss)
            self._foreseen[item.flow] = Expected(ends, item.direction, leg)
        return [self._foreseen[item.flow].leg for item in wanted]

    def adopt(self, wanted: list[AdoptedSocket], socks: list[socket.socket], expected: int = 0) -> list[Leg]:
        """Take the sockets of one message over: all of them, or none. Gives the legs of the flows among them.

        Once the `expected` flows of all messages are here, a long hold is bounded: each has its share of it.

        Raises WRONG_STATE, LEDGER_VIOLATED or SOCKET_UNUSABLE; the sockets are the caller's still, then.
        """
        state = outbound(self.state, Call.ADOPT)
        given = list(zip(wanted, socks, strict=True))
        flows = [(item, sock, *examine(self.context.kernel, item, sock)) for item, sock in given if item.kind == "flow"]
        self.addresses.keep_listeners([(item, sock) for item, sock in given if item.kind == "listener"])
        legs = [self._leg(*flow) for flow in flows]
        legs += [self._keep_datagrams(item, sock) for item, sock in given if item.kind == "datagrams"]
        self._hold(state, len(legs), expected)
        return legs

    def take(self, wanted: list[PairedSocket], socks: list[socket.socket], expected: int = 0) -> list[PairedLeg]:
        """The same of connections that were foreseen, and of which both other ends are there.

        Raises BAD_REQUEST, too, for one that was not foreseen.
        """
        state = outbound(self.state, Call.ADOPT)
        given = list(zip(wanted, socks, strict=True))
        if unknown := [item.flow for item in wanted if item.flow not in self._foreseen]:
            raise ProxyError(Code.BAD_REQUEST, f"flows {unknown} were not foreseen")
        seen = [(item, sock, glance(self.context.kernel, item, sock)) for item, sock in given]
        legs = [self._take(*each) for each in seen]
        self._hold(state, len(legs), expected)
        return legs

    def _hold(self, state: Outbound, flows: int, expected: int) -> None:
        self.state = state
        self.context.totals.flows_adopted += flows
        self.context.lending.promise(self, self.plan.flows - len(self.legs))
        if not self._limit.is_due and len(self.legs) >= expected:
            self._later.do_in(LATER_SECONDS + expected * LATER_SECONDS_EACH)
            self._limit.begin(self.plan.policy.max_held_bytes)

    def repoint(self) -> Repointed:
        """Send every held flow to the destination, and accept what the listeners have. The source must be gone."""
        if self._repointed:
            return self._repointed
        self.state = outbound(self.state, Call.REPOINT)
        self.context.lending.promise(self, 0)
        self._limit.cancel()
        held = list(self.flows.values())
        self._reserved.close()
        for flow in held:
            flow.tell(Event.GIVE_UP if flow.given_up else Event.REPOINT, flow.given_up)
        for each in self.addresses.datagrams.values():
            self._relay_datagrams(each)
        accepted = sum(listener.repoint() for listener in self.addresses.listeners.values())
        if self.addresses.listeners:
            self.links.stand_by(self.plan.spare_links)
        else:
            self.links.close()
        self.addresses.watch(self.links, self._on_workload_ended)
        self._repointed = Repointed(len(held), sum(flow.held_bytes for flow in held), accepted)
        return self._repointed

    def release(self, force: bool = False) -> int:
        """Before the repoint: give everything back to the workload. After it: forget it, if it has ended or by `force`.

        Gives how many flows there were. Raises STILL_RELAYED.
        """
        if self.state is Outbound.REPOINTED and self.live_flows and not force:
            raise ProxyError(Code.STILL_RELAYED, f"{self.live_flows} flows of {self.name} are still relayed")
        self._limit.cancel()
        self.context.lending.promise(self, 0)
        self.addresses.release(repointed=self.state is Outbound.REPOINTED)
        for flow in list(self.flows.values()):
            flow.tell(Event.RELEASE)
        self._reserved.close()
        self.links.close()
        return len(self.flows)

    async def switch(self, wanted: Switch, home: bool) -> Switched:
        """Relay straight to where `wanted.migration` has brought the workload: every flow whose peer leg is ours, and
        whatever the listeners get. `home`: it is in this pod again, and has listeners of its own.

        Waits until each flow has its new link, or will not get one.
        """
        self.settle()
        self.target, self.readdress = wanted.migration, wanted.readdress
        self.links.close()
        token = bytes.fromhex(wanted.token)
        self.links = LinkPool(self.context, wanted.destination, wanted.migration, token, wanted.relink_seconds)
        self.destination = wanted.destination
        if home:
            self.addresses.leave()
        self.addresses.watch(self.links, self._on_workload_ended)
        ours = [f for f in self.flows.values() if not (f.is_over or f.inherited or f.datagrams)]
        via = str(wanted.destination)
        async with asyncio.TaskGroup() as group:
            tasks = [
                (flow, group.create_task(Switching(flow, self.links, via).run(), name=f"switch flow {flow.number}"))
                for flow in ours
            ]
        alive = [task.result() for flow, task in tasks if task.result() or not flow.is_over]
        return Switched(sum(alive), len(alive) - sum(alive))

    def _on_workload_ended(self) -> None:
        log.info("the workload of %s has ended: nobody listens for it any more", self.target)
        self.addresses.leave()
        self.links.close()

    def ledger(self) -> list[LedgerLine]:
        """Not of connections that came meanwhile and that the destination has not accepted: they are on their way."""
        return [flow.ledger_line() for flow in self.flows.values() if not flow.is_on_its_way]

    def _leg(self, item: AdoptedSocket, sock: socket.socket, snapshot: Snapshot, live: Live) -> Leg:
        """What the destination is to build for a flow, which is kept from now on."""
        if item.flow in self.legs:
            sock.close()
            return self._leg_again(item, snapshot, live)
        ends = self._ends(item.flow, item.peer, item.local)
        # A socket that is closed has no leg any more: one that has its ends is that of the peer's next connection.
        number = item.flow if live.state == TcpState.CLOSE else ends.number
        link = None if item.given_up else self._reserved.take(number)
        named = link.number if link else 0
        given_up = bool(item.given_up)
        leg = make_leg(number, ends.peer, ends.app, snapshot, live, named, given_up=given_up)
        self.legs[item.flow] = leg

        def keep() -> None:
            flow = self._held(number, ends, item.direction, sock, snapshot, link)
            flow.live, flow.given_up = live, item.given_up

        self._later.add(keep)
        return leg

    def _take(self, item: PairedSocket, sock: socket.socket, snapshot: Snapshot) -> PairedLeg:
        if (known := self.legs.get(item.flow)) is not None:  # the agent has not heard our answer
            sock.close()
            return PairedLeg(known.flow, known.link, snapshot.unread)
        expected = self._foreseen[item.flow]
        number = expected.leg.flow
        link = self._reserved.take(number)
        named = link.number if link else 0
        self.legs[item.flow] = msgspec.structs.replace(expected.leg, link=named)
        self._later.add(partial(self._held, number, expected.ends, expected.direction, sock, snapshot, link))
        return PairedLeg(number, named, snapshot.unread)

    def _held(
        self, number: int, ends: Ends, direction: Direction, sock: socket.socket, snapshot: Snapshot,
        link: InitiatedLink | None,
    ) -> SourceFlow:  # fmt: skip
        flow = self._flow(number, ends.peer, ends.local, direction, State.HELD, sock)
        flow.snapshot, flow.inherited = snapshot, ends.inherited
        self._flows[number] = flow
        if link is not None:
            flow.reserve(link)
        return flow

    def _ends(self, number: int, peer: Endpoint, local: Endpoint) -> Ends:
        """Both ends of a connection of the workload's, here and there."""
        peer, local = address.unmapped(peer), address.unmapped(local)
        inherited = self.context.legs.get((local, peer)) if self.context.legs else None
        if inherited is not None:
            return Ends(inherited.number, peer, local, Endpoint(alias(self.name, local.host), local.port), True)
        return Ends(number, peer, local, address.readdressed(local, self.plan.readdress), False)

    def _leg_again(self, item: AdoptedSocket, snapshot: Snapshot, live: Live) -> Leg:
        """The agent has not heard our answer, or CRIU has dumped once more: then the last account of a flow counts."""
        old = self.legs[item.flow]
        flow = self.flows[old.flow]
        if flow.snapshot == snapshot:
            return old
        flow.snapshot, flow.live = snapshot, live
        leg = make_leg(old.flow, old.peer, old.app, snapshot, live, old.link, given_up=old.given_up)
        self.legs[item.flow] = leg
        return leg

    def _keep_datagrams(self, item: AdoptedSocket, sock: socket.socket) -> Leg:
        app = address.readdressed(item.local, self.plan.readdress)
        self.addresses.keep_datagrams(item, sock, *map(address.unmapped, (item.local, item.peer)))
        return Leg(item.flow, item.peer, app, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, datagrams=True)

    def _relay_datagrams(self, held: HeldDatagrams) -> None:
        leg = held.repoint(self.readdress)
        flow = self._flow(held.number, held.peer, held.local, "datagrams", State.LINKING, leg)
        flow.datagrams = held
        self.flows[held.number] = flow
        flow.seek_link()

    def _on_accepted(self, sock: socket.socket, peer: Endpoint, local: Endpoint) -> None:
        inherited = self.context.legs.get((local, peer))
        number = inherited.number if inherited else secrets.randbits(FLOW_BITS)
        make_ready(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # what the workload asks for will not reach the peer
        flow = self._flow(number, peer, local, "accepted", State.LINKING, sock)
        app = address.readdressed(local, self.readdress)
        if app == local or (inherited and address.host_of(inherited.via) == self.plan.destination.host):
            app = Endpoint(alias(self.target, local.host), local.port)  # where the peer leg is: its ends are taken
        flow.opening, flow.inherited = Open(number, initiated.number(), peer, app), inherited is not None
        self.flows[number] = flow
        self.context.totals.flows_accepted += 1
        flow.seek_link()

    def _flow(
        self, number: int, peer: Endpoint, local: Endpoint, direction: Direction, state: State, leg: socket.socket
    ) -> SourceFlow:
        flow = SourceFlow(self.context, number, peer, local, direction, state, leg, self._on_ended, self.links)
        flow.via = str(self.destination)
        return flow

    def settle(self) -> None:
        """Its ledgers are of no more use: the workload has been moved on from where this migration brought it."""
        self._ended.keep = 0
        for number in [number for number, flow in self.flows.items() if flow.is_over]:
            del self.flows[number]

    @property
    def is_needed(self) -> bool:
        """Whether it relays, or may be asked for its ledger or for a connection to its old address."""
        return bool(self._ended.keep or self.flows or self.addresses.listeners)

    def _on_ended(self, flow: Flow) -> None:
        for number in self._ended.take(flow):
            self.flows.pop(number, None)
