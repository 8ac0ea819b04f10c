"""A migration at its destination: app legs built for the restored workload, and links that come for them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from functools import partial

from proxy.api import Endpoint, LedgerLine, Leg, PairedLeg, PrepareInbound
from proxy.core.errors import Code, ProxyError
from proxy.core.flow import Event, State
from proxy.core.handshake import proves
from proxy.core.migration import Call, Inbound, inbound
from proxy.core.wire import Hello, Open
from proxy.io.accepted import AcceptedLink
from proxy.io.bell import Bells
from proxy.io.blanks import Blanks
from proxy.io.context import Context
from proxy.io.datagrams import Speakers
from proxy.io.deferred import Deferred
from proxy.io.destination import DestinationFlow
from proxy.io.flow import Direction, Ended, Flow
from proxy.io.link import Link
from proxy.io.retirement import Retirement
from proxy.sys import address, nftables, repair

LATE_SECONDS = 30.0
"""A link that was dialled before the workload moved on has shown itself by then (proxy.io.source, GIVE_UP_SECONDS)."""
LATER_SECONDS, LATER_SECONDS_EACH = 0.005, 20e-6
"""So long after the answer, and so much longer for each leg, flows are made of the legs: the rest of them may be said
until then, and the workload waits for that."""
MAX_TOKENS = 32
"""The first controller's and its successors': each is tried for every HELLO."""


class InboundMigration:
    """One migration at its destination."""

    def __init__(self, context: Context, name: str, plan: PrepareInbound, retirement: Retirement) -> None:
        self.context = context
        self.name = name
        self.plan = plan
        self._tokens = [bytes.fromhex(plan.token)]
        self.state = Inbound.PREPARED
        self._flows: dict[int, DestinationFlow] = {}
        self._links: dict[int, AcceptedLink] = {}
        self._reserved: dict[int, Link] = {}
        """Those that no flow has yet: a leg will say whose each is."""
        self._built: set[int] = set()
        """The flows whose legs were built here, by number: of some, nothing else may have been made yet."""
        self._ahead: set[int] = set()
        """Those that were built ahead of the freeze and are not known to be needed, by number."""
        self.superseded_at = 0.0
        """When the workload was moved on from here, by the loop's clock; 0: it is here."""
        self._retirement = retirement
        self._ended = Ended(context)
        self._blanks = Blanks(context.kernel)
        self._later = Deferred(context.loop)
        self.bells = Bells(context.loop, context.scratch, lambda: self.links.values())
        self._promise()

    @property
    def flows(self) -> dict[int, DestinationFlow]:
        self._later.do()
        return self._flows

    @property
    def links(self) -> dict[int, AcceptedLink]:
        """By their own numbers: those that a broken connection's successor may name."""
        self._later.do()
        return self._links

    def expect(self, via: str) -> None:
        """A connection for a link has come, `via` its other end: have the app leg ready that it will be for."""
        if self.state is Inbound.PREPARED:
            self._blanks.prepare(address.family(address.host_of(via)))
            self._promise()

    def _promise(self) -> None:
        """Have descriptors kept for the legs that are to come."""
        due = self.plan.flows - len(self._built) - len(self._blanks) if self.state is not Inbound.RESUMED else 0
        self.context.lending.promise(self, due)

    def later(self, work: Callable[[], None]) -> None:
        """Do it when the caller has had his answer, and perhaps another, and before anything else here."""
        self._later.add(work)
        self._later.do_in(LATER_SECONDS + len(self._built) * LATER_SECONDS_EACH)

    @property
    def live_flows(self) -> int:
        return sum(not flow.is_over and not flow.is_idle for flow in self.flows.values())

    def proved(self, nonce: bytes, hello: Hello) -> bytes | None:
        """Which of the migration's tokens that HELLO proves."""
        return next((token for token in self._tokens if proves(token, nonce, hello)), None)

    def take_over(self, token: str) -> str:
        """Another controller's token is good as well. Gives what the migration follows. Raises CONFLICT."""
        new = bytes.fromhex(token)
        if new not in self._tokens and len(self._tokens) >= MAX_TOKENS:
            raise ProxyError(Code.CONFLICT, f"{self.name} was taken over {MAX_TOKENS - 1} times already")
        self._tokens = [*self._tokens, *({new} - set(self._tokens))]
        return self.plan.follows

    def reserve(self, make_link: Callable[[], Link]) -> None:
        """A link has come before its leg. Raises WRONG_STATE once the workload runs."""
        if self.state is Inbound.RESUMED:
            raise ProxyError(Code.WRONG_STATE, f"the workload of {self.name} is here already")
        link = make_link()
        self._reserved[link.number] = link

    def make_link(self, number: int, via: str) -> AcceptedLink:
        """One that comes from there."""
        link = AcceptedLink(self.context, number, via, self.plan.relink_seconds, self.forget_link)
        link.ring = self.bells.ring
        self._links[number] = link
        return link

    def _link_for(self, leg: Leg | PairedLeg) -> Link | None:
        """The one that its proxy has given it. It has come before; or it sleeps, and has never had a connection."""
        if link := self._reserved.pop(leg.link, None):
            return link
        if not leg.link or leg.link in self._links or not (via := self.bells.first):
            return None  # it will be asked for
        asleep = self.make_link(leg.link, via)
        asleep.be_asleep()
        return asleep

    def _dismiss_reserved(self) -> None:
        """Those that nobody has taken are for nobody."""
        while self._reserved:
            self._reserved.popitem()[1].close()

    def forget_link(self, link: Link) -> None:
        self.links.pop(link.number, None)
        self._reserved.pop(link.number, None)

    @property
    def built(self) -> int:
        """How many legs have been built here."""
        return len(self._built)

    def build_ahead(self, legs: list[Leg]) -> None:
        """The same of connections that the workload still has; those of an earlier call are for nothing. Raises as
        `build`."""
        inbound(self.state, Call.BUILD)
        self._let_go(self._ahead - {leg.flow for leg in legs})
        self._make(legs, ahead=True)

    def build(self, legs: list[Leg], paired: list[PairedLeg]) -> None:
        """Build the app legs, routes first; they stay in repair mode. All of them, or none. `paired` are there already.

        Raises BAD_REQUEST, WRONG_STATE, ROUTING_FAILED, LEG_NOT_BUILT, or CONFLICT for one that was not built ahead.
        """
        inbound(self.state, Call.BUILD)
        self._take_up(paired)
        self._let_go(self._in_the_way_of(legs))
        self._make(legs, ahead=False)

    def _make(self, legs: list[Leg], *, ahead: bool) -> None:
        state = inbound(self.state, Call.BUILD)
        fresh = [leg for leg in legs if leg.flow not in self._built]
        new = [leg for leg in fresh if not leg.datagrams]
        keys = [_key(leg.app, leg.peer) for leg in new]
        self._retirement.use(keys)
        try:
            socks = self._build(new)
        except ProxyError:
            for key in keys:
                self._retirement.retire(key)
            raise
        self._built.update(leg.flow for leg in fresh)
        if ahead:
            self._ahead.update(leg.flow for leg in fresh)
        self.later(partial(self._keep, new, socks, ahead=ahead))
        for leg in fresh:
            if leg.datagrams:
                self._take_datagrams(leg)
        self.state = state
        self._promise()
        self.context.totals.legs_built += len(new)

    def _take_up(self, legs: list[PairedLeg]) -> None:
        """These were built ahead, and are needed. Raises CONFLICT, or LEG_NOT_BUILT."""
        if missing := {leg.flow for leg in legs} - self._built:
            raise ProxyError(Code.CONFLICT, f"no leg was built ahead for flow {min(missing)}")
        fresh = [leg for leg in legs if leg.flow in self._ahead]  # the others were said before
        self._ahead.difference_update(leg.flow for leg in fresh)
        for leg in fresh:
            if leg.unread:
                self.flows[leg.flow].say(leg.unread)
        self._later.add(partial(self._join, fresh))  # when it is asked for: once the workload runs, as a rule

    def _join(self, legs: list[PairedLeg]) -> None:
        for leg in legs:
            if link := self._link_for(leg):
                self._flows[leg.flow].join(link)

    def _in_the_way_of(self, legs: list[Leg]) -> list[int]:
        """What was built ahead of the same flows, which go by their images after all, and of earlier ones that had the
        same ends: a peer may come again from the same port."""
        if not self._ahead:
            return []
        flows, numbers, ends = self.flows, {leg.flow for leg in legs}, {(leg.app, leg.peer) for leg in legs}
        return [one for one in self._ahead if one in numbers or (flows[one].local, flows[one].peer) in ends]

    def _let_go(self, numbers: Iterable[int]) -> None:
        """These were built ahead in vain."""
        for number in list(numbers):
            self._ahead.discard(number)
            self._built.discard(number)
            self.flows.pop(number).tell(Event.RELEASE)

    def _build(self, legs: list[Leg]) -> list[socket.socket]:
        kernel, socks = self.context.kernel, list[socket.socket]()
        try:
            for leg in legs:
                socks.append(repair.build(kernel, leg, self._blanks.take(address.family(leg.peer.host))))
        except ProxyError:
            for sock in socks:
                sock.close()  # silent, in repair mode
            raise
        return socks

    def _keep(self, legs: list[Leg], socks: list[socket.socket], *, ahead: bool) -> None:
        for leg, sock in zip(legs, socks, strict=True):
            flow = self._flow(leg.flow, leg.peer, leg.app, "inbound", State.BUILT, sock)
            flow.paired = ahead
            flow.given_up = "the source says so" if leg.given_up else ""
            self._flows[leg.flow] = flow
            if link := self._link_for(leg):
                flow.join(link)

    def _take_datagrams(self, leg: Leg) -> None:
        speakers = Speakers(self.context, self._retirement, leg.app, leg.peer)
        flow = DestinationFlow(
            self.context, leg.flow, leg.peer, leg.app, "datagrams", State.BUILT, speakers.leg, self._on_ended,
            self._retirement.retire,
        )  # fmt: skip
        flow.datagrams = speakers
        self._flows[leg.flow] = flow

    def resume(self) -> int:
        """Let the app legs speak. The workload is restored, with its sockets, and is about to run."""
        first = self.state is not Inbound.RESUMED
        self._blanks.close()
        self._let_go(self._ahead)
        self.state = inbound(self.state, Call.RESUME)
        self._promise()
        restored = [flow for flow in self.flows.values() if flow.direction != "accepted"]
        self._dismiss_reserved()
        if first:
            for flow in restored:
                flow.look_for_link()
                flow.tell(Event.GIVE_UP if flow.given_up else Event.RESUME, flow.given_up)
        return len(restored)

    def release(self, force: bool = False) -> int:
        """Before the resume: legs vanish without a packet. After it: forget it, if it has ended or by `force`.

        Gives how many flows there were. Raises STILL_RELAYED.
        """
        if self.state is Inbound.RESUMED and self.live_flows and not force:
            raise ProxyError(Code.STILL_RELAYED, f"{self.live_flows} flows of {self.name} are still relayed")
        self._blanks.close()
        self.context.lending.promise(self, 0)
        self.bells.close()
        for flow in list(self.flows.values()):
            flow.tell(Event.RELEASE)
        self._dismiss_reserved()
        return len(self.flows)

    def orphan(self, source: str) -> int:
        """The proxy at that address, from where the workload has come, is gone: reset what goes by no other way, and
        what still waits for a link. Gives how many flows those were. Raises WRONG_STATE before the resume."""
        inbound(self.state, Call.ORPHAN)
        alive = [flow for flow in self.flows.values() if not flow.is_over and flow.state is not State.DRAINING]
        lost = [flow for flow in alive if not flow.via or address.host_of(flow.via) == source]
        for flow in lost:
            flow.tell(Event.RELEASE, "the proxy that it came from is gone")
        return len(lost)

    def awaiting(self, number: int) -> DestinationFlow:
        """The flow that a link may join. Raises CONFLICT when there is none, or it has one."""
        flow = self.flows.get(number)
        if flow is None or flow.is_over or flow.given_up or flow.path.link is not None:
            raise ProxyError(Code.CONFLICT, f"no flow {number} waits for a link")
        return flow

    def switching(self, number: int) -> DestinationFlow:
        """The flow that a further link may follow. Raises CONFLICT without one, WRONG_STATE while it has no link."""
        flow = self.flows.get(number)
        if flow is None or flow.is_over or flow.state is State.DRAINING:
            raise ProxyError(Code.CONFLICT, f"no flow {number} is here")
        if not flow.can_switch:
            raise ProxyError(Code.WRONG_STATE, f"flow {number} has no link to follow yet")
        return flow

    def open(self, frame: Open, make_link: Callable[[], AcceptedLink]) -> None:
        """Connect a fresh app leg from the peer's address. Raises LEG_NOT_BUILT, ROUTING_FAILED or NO_DESCRIPTORS."""
        if frame.flow in self.flows:
            raise ProxyError(Code.CONFLICT, f"flow {frame.flow} exists")
        if not self.context.lending.take_for_leg():
            raise ProxyError(Code.NO_DESCRIPTORS, f"no descriptor is left for {frame.peer}")
        key = _key(frame.app, frame.peer)
        self._retirement.use([key])
        try:
            leg = repair.fresh(self.context.kernel, frame.peer)
        except ProxyError:
            self._retirement.retire(key)
            raise
        flow = self._flow(frame.flow, frame.peer, frame.app, "accepted", State.CONNECTING, leg)
        self.flows[frame.flow] = flow
        self.context.totals.flows_accepted += 1
        link = make_link()

        def answer(why: str) -> None:
            if why:
                link.refuse(Code.LEG_NOT_BUILT.name.lower(), why)
            else:
                link.unmute()

        flow.connect(link, answer)

    def _flow(
        self, number: int, peer: Endpoint, app: Endpoint, direction: Direction, state: State, leg: socket.socket
    ) -> DestinationFlow:
        flow = DestinationFlow(
            self.context, number, peer, app, direction, state, leg, self._on_ended, self._retirement.retire
        )
        self.context.legs[app, peer] = flow
        return flow

    def ledger(self) -> list[LedgerLine]:
        return [flow.ledger_line() for flow in self.flows.values()]

    def settle(self) -> None:
        """Its ledgers are of no more use, nor is a flow that has ended: the workload has been moved on from here."""
        self.superseded_at = self.superseded_at or self.context.loop.time()
        self._ended.keep = 0
        for number in [number for number, flow in self.flows.items() if flow.is_over]:
            del self.flows[number]

    @property
    def is_needed(self) -> bool:
        """Whether a flow is relayed, or a connection that was opened elsewhere may still be on its way."""
        if not self.superseded_at:
            return True
        return bool(self.live_flows) or self.context.loop.time() - self.superseded_at < LATE_SECONDS

    def _on_ended(self, flow: Flow) -> None:
        if self.context.legs.get((flow.local, flow.peer)) is flow:
            del self.context.legs[flow.local, flow.peer]
        for number in self._ended.take(flow):
            self.flows.pop(number, None)


def _key(app: Endpoint, peer: Endpoint) -> bytes:
    """Raises BAD_REQUEST for what is no address, or addresses of two families."""
    try:
        return nftables.flow_key(app, peer)
    except (OSError, ValueError) as error:
        raise ProxyError(Code.BAD_REQUEST, f"{app} and {peer} make no flow") from error
