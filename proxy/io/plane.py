"""All migrations of one proxy: what the control API and the adoption socket act on."""

from __future__ import annotations

import asyncio
import importlib.metadata
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.api import (
    FlowView,
    Health,
    LedgerLine,
    Legs,
    LegsBuilt,
    ListenerView,
    Orphan,
    Orphaned,
    Prepared,
    PrepareInbound,
    PrepareOutbound,
    Released,
    Repointed,
    Resumed,
    Switch,
    Switched,
    TakenOver,
    TakeOver,
)
from proxy.core.errors import Code, ProxyError
from proxy.core.flow import State
from proxy.core.migration import Inbound, Outbound
from proxy.core.wire import MAX_MIGRATION_BYTES, TOKEN_BYTES
from proxy.io.acceptor import Acceptor
from proxy.io.context import Context
from proxy.io.first_words import FirstWords
from proxy.io.flow import Flow
from proxy.io.inbound import InboundMigration
from proxy.io.outbound import OutboundMigration
from proxy.io.retirement import Retirement
from proxy.sys import address, privileges
from proxy.sys.routing import Routing

VERSION = importlib.metadata.version("midstream")
PARTING_SECONDS = 1.0
"""What links may take to say their last words when the proxy ends."""


class Plane:
    """Calls are synchronous and whole, except the dialling of links; each may be said twice."""

    def __init__(self, context: Context, routing: Routing, link_listener: socket.socket) -> None:
        self.context = context
        self.outbound: dict[str, OutboundMigration] = {}
        self.inbound: dict[str, InboundMigration] = {}
        self._preparing: dict[str, asyncio.Lock] = {}
        self._retirement = Retirement(context.loop, routing)
        context.first_words = FirstWords(context.kernel, context.poller, routing)
        self.acceptor = Acceptor(context, link_listener, self.inbound)
        self._stopping = False

    def start(self) -> None:
        self._retirement.clear_away()
        self.acceptor.start()

    # Source

    async def prepare_outbound(self, name: str, plan: PrepareOutbound) -> Prepared:
        self._require_name(name)
        _require_token(plan.token)
        for host in (plan.destination.host, *plan.readdress, *plan.readdress.values()):
            address.require_literal(host)
        async with self._preparing.setdefault(name, asyncio.Lock()):
            migration = self.outbound.get(name)
            if migration is None:
                migration = OutboundMigration(self.context, name, plan)
                await migration.prepare()
                self.outbound[name] = migration
            elif migration.plan != plan:
                raise ProxyError(Code.CONFLICT, f"{name} was prepared otherwise")
        return Prepared(migration.ready_links)

    def outbound_named(self, name: str) -> OutboundMigration:
        try:
            return self.outbound[name]
        except KeyError:
            raise ProxyError(Code.UNKNOWN_MIGRATION, f"no outbound migration {name!r} here") from None

    def repoint(self, name: str) -> Repointed:
        with self._timed("repoint_seconds"):
            return self.outbound_named(name).repoint()

    def outbound_ledger(self, name: str) -> list[LedgerLine]:
        return self.outbound_named(name).ledger()

    def release_outbound(self, name: str, force: bool = False) -> Released:
        """Unknown is released already: said twice, done once."""
        migration = self.outbound.get(name)
        if migration is None:
            return Released(0)
        flows = migration.release(force)
        del self.outbound[name]
        self._preparing.pop(name, None)
        return Released(flows)

    # Destination

    def prepare_inbound(self, name: str, plan: PrepareInbound) -> Prepared:
        self._require_name(name)
        _require_token(plan.token)
        migration = self.inbound.get(name)
        if migration is None:
            self._retirement.begin()
            self.inbound[name] = InboundMigration(self.context, name, plan, self._retirement)
            self._share_listeners(plan.follows, True, plan.relink_seconds)
        elif migration.plan.token.lower() != plan.token.lower():
            raise ProxyError(Code.CONFLICT, f"{name} was prepared with another token")
        return Prepared(self.context.lending.room)

    def inbound_named(self, name: str) -> InboundMigration:
        try:
            return self.inbound[name]
        except KeyError:
            raise ProxyError(Code.UNKNOWN_MIGRATION, f"no inbound migration {name!r} here") from None

    def build_ahead(self, name: str, legs: Legs) -> LegsBuilt:
        """Before the freeze: those that are not named as paired inside it are for nothing."""
        migration = self.inbound_named(name)
        migration.build_ahead(legs.legs)
        return LegsBuilt(migration.built)

    def build(self, name: str, legs: Legs) -> LegsBuilt:
        with self._timed("build_seconds"):
            migration = self.inbound_named(name)
            migration.build(legs.legs, legs.paired)
            return LegsBuilt(migration.built)

    def resume(self, name: str) -> Resumed:
        with self._timed("resume_seconds"):
            migration = self.inbound_named(name)
            resumed = migration.resume()
            for following in self._relaying_to(migration.plan.follows):
                following.addresses.hand_over()
            return Resumed(resumed)

    def take_over(self, name: str, by: TakeOver) -> TakenOver:
        _require_token(by.token)
        return TakenOver(self.inbound_named(name).take_over(by.token))

    def orphan(self, name: str, by: Orphan) -> Orphaned:
        return Orphaned(self.inbound_named(name).orphan(by.source))

    def end(self, name: str) -> int:
        """The workload that `name` has brought here has ended: whoever keeps its former addresses for it need not.

        Gives how many proxies have been told.
        """
        return self.acceptor.end(name)

    def inbound_ledger(self, name: str) -> list[LedgerLine]:
        return self.inbound_named(name).ledger()

    def release_inbound(self, name: str, force: bool = False) -> Released:
        """Unknown is released already: said twice, done once."""
        migration = self.inbound.get(name)
        if migration is None:
            return Released(0)
        flows = migration.release(force)
        if migration.state is not Inbound.RESUMED:
            self._share_listeners(migration.plan.follows, False)
        del self.inbound[name]
        self.acceptor.close_links_of(migration)
        self._retirement.end()
        return Released(flows)

    # Both

    async def switch(self, wanted: Switch) -> Switched:
        """Relay what follows the workload straight to where it is now; unknown is nothing to do."""
        _require_token(wanted.token)
        for host in (wanted.destination.host, *wanted.readdress, *wanted.readdress.values()):
            address.require_literal(host)
        home = wanted.migration in self.inbound
        following = self._relaying_to(wanted.follows)
        done = await asyncio.gather(*(migration.switch(wanted, home) for migration in following))
        if wanted.follows in self.inbound:
            self.inbound[wanted.follows].settle()
        self._sweep()
        return Switched(sum(each.flows for each in done), sum(each.left for each in done))

    def _sweep(self) -> None:
        """Forget the migrations that nobody needs any more."""
        for name in [name for name, migration in self.outbound.items() if not migration.is_needed]:
            self.release_outbound(name)
        for name in [name for name, migration in self.inbound.items() if not migration.is_needed]:
            self.release_inbound(name)

    def listeners(self) -> list[ListenerView]:
        return [
            ListenerView(migration.name, migration.target, listener.local)
            for migration in self.outbound.values()
            for listener in migration.addresses.listeners.values()
        ]

    def _relaying_to(self, target: str) -> list[OutboundMigration]:
        return [
            migration
            for migration in self.outbound.values()
            if target and migration.target == target and migration.state is Outbound.REPOINTED
        ]

    def _share_listeners(self, target: str, shared: bool, seconds: float = 0) -> None:
        for migration in self._relaying_to(target):
            migration.addresses.share(shared, seconds)

    def flows(self) -> Iterator[tuple[str, Flow]]:
        for migrations in (self.outbound, self.inbound):
            for migration in migrations.values():
                for flow in migration.flows.values():
                    yield migration.name, flow

    def views(self) -> list[FlowView]:
        return [flow.view(name) for name, flow in self.flows() if not flow.is_over and not flow.is_idle]

    def health(self) -> Health:
        status = privileges.status()
        held = [flow for _, flow in self.flows() if flow.state is State.HELD]
        return Health(
            version=VERSION,
            uid=int(status["Uid"].split()[1]),
            capabilities=privileges.names(privileges.effective()),
            flows=sum(not flow.is_over and not flow.is_idle for _, flow in self.flows()),
            held_flows=len(held),
            held_bytes=sum(flow.held_bytes for flow in held),
            spare_descriptors=self.context.lending.spare + self.context.lending.lendable,
            cleartext_links=self.context.tls is None,
        )

    def stop_taking(self) -> None:
        """The first step of the end: no new migration; held flows go back to the workload, listeners with them."""
        self._stopping = True
        for name, migration in list(self.outbound.items()):
            if migration.state is not Outbound.REPOINTED:
                self.release_outbound(name)

    async def relayed_no_more(self) -> None:
        """Wait for the end of every flow."""
        while any(not flow.is_over and flow.datagrams is None for _, flow in self.flows()):
            self.context.ended.clear()
            await self.context.ended.wait()

    async def reset_all(self) -> None:
        """Whatever is still relayed is reset, and the other proxies hear of it, if they listen."""
        self._release_all()
        deadline = self.context.loop.time() + PARTING_SECONDS
        while self.context.links and self.context.loop.time() < deadline:  # noqa: ASYNC110  they end one by one
            await asyncio.sleep(0.01)

    def _release_all(self) -> None:
        for name in list(self.outbound):
            self.release_outbound(name, force=True)
        for name in list(self.inbound):
            self.release_inbound(name, force=True)

    def close(self) -> None:
        """The last step: nothing is relayed any more."""
        self._release_all()
        self.acceptor.close()
        self.context.close_links()
        self.context.drainer.close()
        self.context.poller.close()
        self._retirement.close()

    def _require_name(self, name: str) -> None:
        if self._stopping:
            raise ProxyError(Code.SHUTTING_DOWN, "the proxy is ending")
        if not name or len(name.encode()) > MAX_MIGRATION_BYTES:
            raise ProxyError(Code.BAD_REQUEST, f"a migration's id has 1 to {MAX_MIGRATION_BYTES} bytes")

    @contextmanager
    def _timed(self, total: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            totals = self.context.totals
            setattr(totals, total, getattr(totals, total) + time.perf_counter() - start)


def _require_token(token: str) -> None:
    try:
        right = len(bytes.fromhex(token)) == TOKEN_BYTES and len(token) == 2 * TOKEN_BYTES
    except ValueError:
        right = False
    if not right:
        raise ProxyError(Code.BAD_REQUEST, f"a token has {2 * TOKEN_BYTES} hexadecimal digits")
