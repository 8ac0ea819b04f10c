"""A migration at its source: adopted flows and listeners, held, then repointed or released."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
from collections.abc import Callable
from typing import Literal

import msgspec

from proxy.api import Endpoint, LedgerLine, Leg, PrepareOutbound, Repointed
from proxy.core import hold
from proxy.core.errors import Code, ProxyError
from proxy.core.flow import Event, State
from proxy.core.ledger import Live, Snapshot, held_since, mirror, modular
from proxy.core.migration import Call, Outbound, outbound
from proxy.core.wire import Join, Open
from proxy.io.context import Context
from proxy.io.flow import Direction, Flow
from proxy.io.link import DialledLink, LinkPool
from proxy.io.relay import discard, make_ready
from proxy.sys import address, limits, options, repair

log = logging.getLogger(__name__)

FLOW_BITS = 48  # a flow's number is random and unique for life, wherever the flow goes
MAX_ENDED_ACCEPTED = 1024  # ledgers of ended flows kept for connections that came after the repoint


class AdoptedSocket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One descriptor of the adoption protocol; the sequence numbers mean nothing for a listener."""

    flow: int
    kind: Literal["flow", "listener"]
    local: Endpoint
    peer: Endpoint
    direction: Literal["inbound", "outbound"] = "inbound"
    inq_seq: int = 0
    inq_len: int = 0
    outq_seq: int = 0
    outq_len: int = 0
    fin_received: bool = False
    fin_sent: bool = False
    """The workload has shut down its side; the FIN is not counted in `outq_seq`."""


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
        snapshot: Snapshot | None = None,
        live: Live | None = None,
    ) -> None:
        super().__init__(context, number, peer, local, direction, state, leg, ended)
        self.links = links
        self.snapshot = snapshot
        self.live = live
        self.opening: Open | None = None
        self.buffer = limits.Buffer()
        self._held = 0
        self._dialled: DialledLink | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._give_up_at = 0.0

    # The hold

    def limit(self, share_bytes: int) -> None:
        """Bound what the peer may add (see proxy.core.hold)."""
        assert self.live
        allowed = hold.allowance(self.live.offered, share_bytes, self.arrived_since_adoption())
        self.buffer.limit(self.context.kernel, self.leg, allowed)

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
        self.link = link.sock
        self.tell(Event.LINK_READY)

    def relay(self) -> None:
        self.pump_from_leg()

    def link_accepted(self, rest: bytes) -> None:
        self.pump_from_link(rest)

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


class HeldListener:
    """An adopted listening socket. The kernel completes handshakes into it all through the hold."""

    ACCEPTS_A_CALLBACK = 64  # let relayed flows have their turn
    EXHAUSTED_SECONDS = 0.1  # no descriptor free: the backlog keeps the rest meanwhile

    def __init__(self, context: Context, sock: socket.socket, local: Endpoint, taken: Callable[..., None]) -> None:
        self.local = local
        self._context = context
        self._sock = sock
        self._taken = taken
        self._backlog = limits.raise_backlog(context.kernel, sock)
        self._listening = False
        self._pause: asyncio.TimerHandle | None = None

    def release(self) -> None:
        """Give the workload its backlog back and let go of the duplicate."""
        limits.restore_backlog(self._context.kernel, self._sock, self._backlog)
        self._sock.close()

    def repoint(self) -> int:
        """Take everything that is waiting, then whatever comes; gives how many there were."""
        self._sock.setblocking(False)
        count = 0
        while took := self._accept_some():
            count += took
        self._resume()
        return count

    def close(self) -> None:
        if self._pause:
            self._pause.cancel()
        if self._listening:
            self._context.loop.remove_reader(self._sock)
        self._sock.close()

    def _resume(self) -> None:
        self._pause = None
        self._listening = True
        self._context.loop.add_reader(self._sock, self._accept_some)

    def _accept_some(self) -> int:
        for count in range(self.ACCEPTS_A_CALLBACK):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return count
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM) and self._listening:
                    self._context.loop.remove_reader(self._sock)
                    self._listening = False
                    self._pause = self._context.loop.call_later(self.EXHAUSTED_SECONDS, self._resume)
                return count
            self._taken(sock, address.endpoint(peer), address.endpoint(sock.getsockname()))
        return self.ACCEPTS_A_CALLBACK


class OutboundMigration:
    """One migration at its source."""

    def __init__(self, context: Context, name: str, plan: PrepareOutbound) -> None:
        self.context = context
        self.name = name
        self.plan = plan
        self.state = Outbound.PREPARED
        self.flows: dict[int, SourceFlow] = {}
        self.legs: dict[int, Leg] = {}
        self.listeners: dict[int, HeldListener] = {}
        self.links = LinkPool(context.loop, plan.destination, name, bytes.fromhex(plan.token))
        self._repointed: Repointed | None = None
        self._limiting: asyncio.Handle | None = None
        self._ended_accepted: list[int] = []

    @property
    def live_flows(self) -> int:
        return sum(not flow.is_over for flow in self.flows.values())

    async def prepare(self) -> int:
        """Dial at least one link, so that a destination that cannot be reached is known before the freeze."""
        await self.links.prepare(max(1, self.plan.links))
        return self.links.idle

    def adopt(self, wanted: list[AdoptedSocket], socks: list[socket.socket]) -> list[Leg]:
        """Take the sockets of one message over: all of them, or none. Gives the legs of the flows among them.

        Raises WRONG_STATE, LEDGER_VIOLATED or SOCKET_UNUSABLE; the sockets are the caller's still, then.
        """
        state = outbound(self.state, Call.ADOPT)
        pairs = list(zip(wanted, socks, strict=True))
        flows = [(item, sock, *self._examine(item, sock)) for item, sock in pairs if item.kind == "flow"]
        self._keep_listeners([(item, sock) for item, sock in pairs if item.kind == "listener"])
        legs = [self._keep_flow(*flow) for flow in flows]
        self.state = state
        self.context.totals.flows_adopted += len(legs)
        if self._limiting is None:
            self._limiting = self.context.loop.call_soon(self._limit)
        return legs

    def repoint(self) -> Repointed:
        """Send every held flow to the destination, and accept what the listeners have. The source must be gone."""
        if self._repointed:
            return self._repointed
        self.state = outbound(self.state, Call.REPOINT)
        self._cancel_limiting()
        held = list(self.flows.values())
        for flow in held:
            flow.tell(Event.REPOINT)
        accepted = sum(listener.repoint() for listener in self.listeners.values())
        self.links.close()
        self._repointed = Repointed(len(held), sum(flow.held_bytes for flow in held), accepted)
        return self._repointed

    def release(self, force: bool = False) -> int:
        """Before the repoint: give everything back to the workload. After it: forget it, if it has ended or by `force`.

        Gives how many flows there were. Raises STILL_RELAYED.
        """
        if self.state is Outbound.REPOINTED and self.live_flows and not force:
            raise ProxyError(Code.STILL_RELAYED, f"{self.live_flows} flows of {self.name} are still relayed")
        self._cancel_limiting()
        for listener in self.listeners.values():
            if self.state is Outbound.REPOINTED:
                listener.close()
            else:
                listener.release()
        for flow in list(self.flows.values()):
            flow.tell(Event.RELEASE)
        self.links.close()
        return len(self.flows)

    def ledger(self) -> list[LedgerLine]:
        return [flow.ledger_line() for flow in self.flows.values()]

    def _examine(self, item: AdoptedSocket, sock: socket.socket) -> tuple[Snapshot, Live]:
        snapshot = Snapshot(item.inq_seq, item.inq_len, modular(item.outq_seq + item.fin_sent), item.outq_len)
        try:
            live = repair.read(self.context.kernel, sock)
            held_since(snapshot, live)
            repair.leave(self.context.kernel, sock)
        except OSError as error:
            raise ProxyError(Code.SOCKET_UNUSABLE, f"flow from {item.peer}: {error.strerror}") from error
        except ProxyError as error:
            raise ProxyError(error.code, f"flow from {item.peer}: {error.message}") from error
        return snapshot, live

    def _keep_flow(self, item: AdoptedSocket, sock: socket.socket, snapshot: Snapshot, live: Live) -> Leg:
        if item.flow in self.flows:  # said twice
            sock.close()
            return self.legs[item.flow]
        peer = Endpoint(address.plain(item.peer.host), item.peer.port)
        app = address.readdressed(item.local, self.plan.readdress)
        local = Endpoint(address.plain(item.local.host), item.local.port)
        flow = SourceFlow(
            self.context, item.flow, peer, local, item.direction, State.HELD, sock, self._on_ended, self.links, snapshot, live
        )
        flow.via = str(self.plan.destination)
        self.flows[item.flow] = flow
        leg = self.legs[item.flow] = make_leg(item.flow, peer, app, snapshot, live)
        return leg

    def _keep_listeners(self, pairs: list[tuple[AdoptedSocket, socket.socket]]) -> None:
        kept: dict[int, HeldListener] = {}
        try:
            for item, sock in pairs:
                if item.flow not in self.listeners:
                    kept[item.flow] = HeldListener(self.context, sock, item.local, self._on_accepted)
        except OSError as error:
            for listener in kept.values():
                listener.release()
            raise ProxyError(Code.SOCKET_UNUSABLE, f"a listener: {error.strerror}") from error
        self.listeners.update(kept)

    def _limit(self) -> None:
        self._limiting = None
        share = hold.share(self.plan.policy.max_held_bytes, len(self.flows))
        try:
            for flow in self.flows.values():
                if flow.state is State.HELD:
                    flow.limit(share)
        except OSError as error:  # bounded then by the buffers as they are
            log.warning("the hold of %s has no limit of its own: %s", self.name, error.strerror)

    def _cancel_limiting(self) -> None:
        if self._limiting:
            self._limiting.cancel()
        self._limiting = None

    def _on_accepted(self, sock: socket.socket, peer: Endpoint, local: Endpoint) -> None:
        number = secrets.randbits(FLOW_BITS)
        make_ready(sock)
        flow = SourceFlow(
            self.context, number, peer, local, "accepted", State.LINKING, sock, self._on_ended, self.links
        )
        flow.via = str(self.plan.destination)
        flow.opening = Open(number, peer, address.readdressed(local, self.plan.readdress))
        self.flows[number] = flow
        self.context.totals.flows_accepted += 1
        flow.seek_link()

    def _on_ended(self, flow: Flow) -> None:
        self.context.totals.to_app_bytes += flow.to_app_bytes
        self.context.totals.to_peer_bytes += flow.to_peer_bytes
        if flow.direction == "accepted":
            self._ended_accepted.append(flow.number)
            if len(self._ended_accepted) > MAX_ENDED_ACCEPTED:
                self.flows.pop(self._ended_accepted.pop(0), None)


def make_leg(number: int, peer: Endpoint, app: Endpoint, snapshot: Snapshot, live: Live) -> Leg:
    """The other end of a restored socket, as the destination is to build it."""
    ends = mirror(snapshot, live)
    return Leg(
        flow=number,
        peer=peer,
        app=app,
        snd_seq=ends.snd_seq,
        rcv_seq=ends.rcv_seq,
        tcp_options=live.tcp_options,
        snd_wscale=ends.snd_wscale,
        rcv_wscale=ends.rcv_wscale,
        mss=live.mss,
        timestamp=live.timestamp,
        snd_wl1=ends.snd_wl1,
        snd_wnd=ends.snd_wnd,
        max_window=ends.max_window,
        rcv_wnd=ends.rcv_wnd,
        rcv_wup=ends.rcv_wup,
    )
