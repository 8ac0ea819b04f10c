"""What each action of the phase table says to which party.

A `Move` holds what one action has to tell a later one. Every action can be said twice: the sidecars' calls are
idempotent, so a new controller may repeat whatever its predecessor had begun.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

import checkpoint.api as agent_api
import proxy.api as proxy_api
from controller import memory, relayed
from controller.clients import gather_named, unless_gone, unless_unknown
from controller.core.accounts import Account, reconcile
from controller.core.choose import Choice, fall_back
from controller.core.errors import MidstreamError, Unreachable
from controller.core.hold import judged
from controller.core.phases import Action
from controller.core.plan import Plan, links_that_fit, refuse_what_cannot_move, spare_links
from controller.core.predict import Rates
from controller.core.ways import Pile
from controller.journal import Intent
from controller.lab.pod import Pod
from controller.pairs import Pairs
from controller.parties import Parties
from controller.preflight import preflight
from controller.remains import gave_up
from controller.transfer import Agreed, Depot, agree, carry_files, reserve

T = TypeVar("T")

_NONE = msgspec.Raw(b"[]")
_LOG = logging.getLogger(__name__)

LINK_TOKEN_BYTES = IMAGE_KEY_BYTES = 32
_NOT_MEASURED = Rates(copy_bytes_per_second=0.5e9)


class Move(Parties):
    """One migration, and what is known of it so far."""

    def __init__(
        self, intent: Intent, source: Pod, destination: Pod, rates: Rates = _NOT_MEASURED, depot: Depot | None = None
    ) -> None:
        """`rates`: what moves have taken here, for the plan. `depot`: where images are stored on their way."""
        super().__init__(source, destination)
        self.intent, self._rates, self._depot = intent, rates, depot
        self.answered_at: dict[Action, float] = {}
        """CLOCK_MONOTONIC seconds at which each action had its answer."""
        self.said_at: dict[Action, float] = {}
        self.plan: Plan | None = None
        self.pile = Pile()
        self.dumped: agent_api.Dumped | None = None
        self.adopted: agent_api.Adopted | None = None
        self.sealed: agent_api.Sealed | None = None
        self.restored: agent_api.Restored | None = None
        self.repointed: proxy_api.Repointed | None = None
        self.accounts: list[Account] = []
        self.flows_lost: MidstreamError | None = None
        """After the commit a proxy was lost, and the connections with it."""
        self.seconds: dict[str, float] = {}
        """The agents' own account of their steps."""
        # Not on record: a controller that takes over before the commit takes the migration back, after it needs no key.
        self._image_key = secrets.token_hex(IMAGE_KEY_BYTES)
        # Nor is this: a controller that takes over has one of its own.
        self._token = secrets.token_hex(LINK_TOKEN_BYTES)
        self._follows = ""
        """The migration that brought the workload to the source, as far as it is known here."""
        self._prepared: agent_api.Custody | None = None
        self._room = proxy_api.Prepared()
        """What the destination's proxy has room for."""
        self._agreed = Agreed()
        self.pairs = Pairs(self, self._id, self._patience_seconds)
        self.memory: agent_api.Memory | None = None
        """How far the memory has come that is in no image."""
        self.reserved: agent_api.Reserved | None = None
        """Of the room for the images, at the destination, before the freeze."""
        self.rounds: list[agent_api.PreDumped] = []
        """With pre-copy: what has been copied before the stop; all the rounds, those in vain too."""

    async def perform(self, action: Action) -> None:
        """Carries out one action.

        Raises:
            MidstreamError: what the party said, or that it did not answer.
        """
        self.said_at.setdefault(action, time.monotonic())
        await ACTIONS[action](self)
        self.answered_at.setdefault(action, time.monotonic())

    @property
    def _id(self) -> str:
        return self.intent.migration

    @property
    def _patience_seconds(self) -> float:
        """How long a call inside the hold may take: the agent's own lease ends the hold, not this."""
        return self.intent.max_hold_seconds + 5

    async def _check_plan(self) -> None:
        self.plan = await preflight(self, self.intent, self._rates)
        refuse_what_cannot_move(self.plan)
        self._follows = self.plan.follows
        self.intent = msgspec.structs.replace(self.intent, memory=self._choice.way)

    @property
    def _planned(self) -> Plan:
        assert self.plan is not None
        return self.plan

    @property
    def _choice(self) -> Choice:
        assert self._planned.memory is not None
        return self._planned.memory

    async def _await_ways(self) -> None:
        """Looks once; `controller.migrate` looks again until there are few."""
        if self.plan is None or not self.plan.follows:
            return
        self.pile = await relayed.ways(self.source, self.plan.follows)

    async def _prepare_source(self) -> None:
        body = agent_api.PrepareOutbound(
            self.intent.workload, self._planned.readdress, self.intent.max_hold_seconds, self._image_key,
            self.intent.allow_loss, self._choice.way, self.intent.files,
        )  # fmt: skip
        self._prepared = await self.source_agent.prepare_outbound(self._id, body)

    async def _prepare_destination(self) -> None:
        body = agent_api.PrepareInbound(
            self.intent.workload, self._planned.argv, self._image_key, self._choice.way, self.intent.files,
            self._planned.cpu_features,
        )  # fmt: skip
        await self.destination_agent.prepare_inbound(self._id, body)

    async def _open_inbound(self) -> None:
        planned = self._planned
        body = proxy_api.PrepareInbound(self._token, planned.follows, self.intent.max_hold_seconds, planned.connections)
        self._room = await self.destination_proxy.prepare_inbound(self._id, body)

    async def _dial_links(self) -> None:
        to, spares = proxy_api.Endpoint(self.destination.address, proxy_api.LINK_PORT), spare_links(self._choice.way)
        body = proxy_api.PrepareOutbound(
            destination=to, token=self._token, readdress=self._planned.readdress,
            links=links_that_fit(self._planned.connections, self._room.links, spares),
            flows=self._planned.connections, spare_links=spares,
            policy=proxy_api.HoldPolicy(self.intent.max_held_bytes), relink_seconds=self.intent.max_hold_seconds,
        )  # fmt: skip
        await self.source_proxy.prepare_outbound(self._id, body)

    async def _open_transfer(self) -> None:
        assert self._prepared is not None
        self._agreed = await agree(
            self._id, self.intent.transfer, self.source_agent, self.destination_agent, self._prepared,
            self.destination.address, self._depot, self.intent.max_hold_seconds,
            straight=self._choice.goes_straight,
        )  # fmt: skip
        intent, direct = self.intent, self._agreed.way == "direct"
        refuse_what_cannot_move(judged(self._planned, intent.transfer, intent.max_hold_seconds, direct=direct))

    async def _carry_files(self) -> None:
        """What there is of them before the freeze; inside it only what has changed since is sent."""
        ways = {"shared": None, "direct": self.intent.transfer, "store": self._depot}
        wanted = ways[self._agreed.way]
        await carry_files(self._id, self.source_agent, self.destination_agent, wanted, self.destination.address)

    async def _reserve(self) -> None:
        """Looks once; `controller.migrate` looks again until it is there."""
        self.reserved = await reserve(self._id, self.destination_agent, self._planned, self._agreed)

    async def _send_early(self) -> None:
        """Looks once; `controller.migrate` looks again until it is there."""
        source = self._agreed.memory_at(self.source.address)
        self.memory = await memory.send_early(self._id, self.destination_agent, self._choice, source)

    async def _survey(self) -> None:
        await self.source_agent.outbound(self._id, "survey", agent_api.Custody)

    @property
    def made_ahead(self) -> int:
        """How many of the adopted connections had both ends at the destination before the stop."""
        said = (one.paired for one in (self.dumped, self.adopted) if one is not None)
        return sum(len(msgspec.json.decode(legs, type=list[msgspec.Raw])) for legs in said)

    @property
    def copies_before(self) -> bool:
        """Whether its memory is copied before the stop."""
        return self._choice.way == "pre-copy"

    async def _pre_copy(self) -> None:
        """One round; `controller.migrate` asks for the next."""
        self.rounds.append(await memory.copy(self._id, self.source_agent, self._choice, len(self.rounds) + 1))

    async def _start_over(self) -> None:
        if not self.rounds or self.rounds[-1].then != "fall-back":
            return
        await self._forget()
        await self.pairs.forget()
        choice = fall_back(self._choice, self.rounds[-1].reason)
        self.plan = msgspec.structs.replace(self._planned, memory=choice)
        self.intent = msgspec.structs.replace(self.intent, memory=choice.way)

    async def _ready(self) -> None:
        await self.source_agent.outbound(self._id, "ready", agent_api.Custody)

    async def _stop(self) -> None:
        self._learn(await self._source("stop?ahead=1", agent_api.Custody))

    async def _dump(self) -> None:
        self.dumped = await self._source("dump", agent_api.Dumped)

    async def _adopt(self) -> None:
        self.adopted = await self._source("adopt", agent_api.Adopted)

    async def _seal(self) -> None:
        self.sealed = await self._source("seal", agent_api.Sealed)

    async def _build_legs(self) -> None:
        """The dump's beside the adoption, and the adoption's after it."""
        assert self.dumped is not None
        legs, pairs = self.dumped.legs, self.dumped.paired
        if self.adopted is not None:
            legs, pairs = self.adopted.legs, _NONE
        await self.destination_proxy.build_legs(self._id, legs, pairs, self._patience_seconds)

    async def _join_pairs(self) -> None:
        assert self.adopted is not None
        await self.destination_proxy.build_legs(self._id, _NONE, self.adopted.paired, self._patience_seconds)

    async def _restore(self) -> None:
        assert self.sealed is not None
        source = self._agreed.memory_at(self.source.address)
        archived = self._depot if self._agreed.way == "store" else None
        stored = archived.fetching(self.intent.max_hold_seconds) if archived is not None else None
        body = agent_api.RestoreWorkload(self.sealed.images, self.sealed.manifest_digest, source, stored)
        self.restored = await self.destination_agent.inbound(
            self._id, "restore", agent_api.Restored, body, timeout_seconds=self._patience_seconds
        )

    async def _check_legs(self) -> None:
        """A proxy that was started anew while the copy was made has none, and after the commit it would be too late."""
        await self.destination_proxy.build_legs(self._id, _NONE, _NONE, self._patience_seconds)

    @property
    def source_gave_up(self) -> bool:
        """It is gone, and had given the workload up: the copy is all there is."""
        return not self.source.alive and gave_up(self.source, self._id)

    async def _commit(self) -> None:
        try:
            self._learn(await self._source("commit", agent_api.Custody))
        except Unreachable:
            if not self.source_gave_up:
                raise
            _LOG.warning("%s: pod %s is gone, and had given the workload up", self._id, self.source.name)

    async def _resume_legs(self) -> None:
        await unless_unknown(self.destination_proxy.resume(self._id))

    async def _resume(self) -> None:
        self._learn(await self.destination_agent.inbound(self._id, "resume", agent_api.Custody))

    async def _repoint(self) -> None:
        self.repointed = await unless_gone(self.source, self.source_proxy.repoint(self._id))

    async def _settle(self) -> None:
        """Reads the ledgers once; `controller.migrate` asks again until they are settled."""
        before = await self._ledger_of_source()
        there = await unless_unknown(self.destination_proxy.ledger("inbound", self._id))
        after = await self._ledger_of_source()
        if before is None or after is None:
            await unless_unknown(self.destination_proxy.orphan(self._id, self.source.address))
            self.flows_lost = _flows_lost(self.source)
        elif there is None:
            self.flows_lost = _flows_lost(self.destination)
        else:
            self.accounts = reconcile(before, there, after)

    async def _ledger_of_source(self) -> list[proxy_api.LedgerLine] | None:
        return await unless_gone(self.source, self.source_proxy.ledger("outbound", self._id))

    async def _shorten(self) -> None:
        """Have whatever followed the workload to the source relayed straight to the destination, pod by pod."""
        if self.plan is None:
            await unless_unknown(self._take_over())  # unknown: another proxy, so the flows are gone
        if not self._follows:
            return
        await relayed.shorten(
            self.source, self.destination, follows=self._follows, migration=self._id, token=self._token,
            relink_seconds=self.intent.max_hold_seconds,
        )  # fmt: skip

    async def _take_over(self) -> None:
        """The token went with the controller before us: agree on another one with who has to know it."""
        self._follows = (await self.destination_proxy.take_over(self._id, self._token)).follows

    async def _await_memory(self) -> None:
        """Looks once; `controller.migrate` asks again until everything is there."""
        chosen = self.plan is not None  # else it was by a controller before this one, and the agent is to say
        among_images = chosen and self.intent.memory != "post-copy" and not self._agreed.memory_port
        if among_images or (self.memory is not None and self.memory.state == "complete"):
            return
        self.memory = await memory.look(self._id, self.destination_agent, self.memory)

    async def _forget(self) -> None:
        # Unknown: said before, and one of the two did not answer then.
        await gather_named(
            source=unless_gone(self.source, self.source_agent.forget("outbound", self._id)),
            destination=unless_unknown(self.destination_agent.forget("inbound", self._id)),
        )

    async def _release(self) -> None:
        await unless_unknown(self.source_agent.outbound(self._id, "release", agent_api.Custody))
        await unless_unknown(self.source_proxy.release("outbound", self._id))
        await unless_unknown(self.source_agent.forget("outbound", self._id))

    async def _discard(self) -> None:
        await unless_unknown(self.destination_agent.forget("inbound", self._id))

    async def _close_inbound(self) -> None:
        await unless_unknown(self.destination_proxy.release("inbound", self._id))

    async def _source(self, verb: str, answer: type[T]) -> T:
        return await self.source_agent.outbound(self._id, verb, answer, timeout_seconds=self._patience_seconds)

    def _learn(self, custody: agent_api.Custody) -> None:
        self.seconds.update(custody.seconds)


def _flows_lost(pod: Pod) -> MidstreamError:
    message = f"the proxy of pod {pod.name} was lost after the commit, and the connections with it"
    return MidstreamError("flows-lost", message, "pod", f"the workload runs; see {pod.log('proxy')}")


ACTIONS: dict[Action, Callable[[Move], Awaitable[None]]] = {
    Action.CHECK_PLAN: Move._check_plan,
    Action.AWAIT_WAYS: Move._await_ways,
    Action.PREPARE_SOURCE: Move._prepare_source,
    Action.PREPARE_DESTINATION: Move._prepare_destination,
    Action.OPEN_INBOUND: Move._open_inbound,
    Action.DIAL_LINKS: Move._dial_links,
    Action.OPEN_TRANSFER: Move._open_transfer,
    Action.CARRY_FILES: Move._carry_files,
    Action.RESERVE: Move._reserve,
    Action.SEND_EARLY: Move._send_early,
    Action.FORESEE: lambda move: move.pairs.foresee(),
    Action.PAIR: lambda move: move.pairs.make(),
    Action.SURVEY: Move._survey,
    Action.SPARE: lambda move: move.pairs.spare(),
    Action.PRE_COPY: Move._pre_copy,
    Action.START_OVER: Move._start_over,
    Action.READY: Move._ready,
    Action.STOP: Move._stop,
    Action.DUMP: Move._dump,
    Action.ADOPT: Move._adopt,
    Action.SEAL: Move._seal,
    Action.BUILD_LEGS: Move._build_legs,
    Action.RESTORE: Move._restore,
    Action.COMPARE: lambda move: move.pairs.compare(),
    Action.ADJUST: lambda move: move.pairs.adjust(),
    Action.JOIN_PAIRS: Move._join_pairs,
    Action.CHECK_LEGS: Move._check_legs,
    Action.COMMIT: Move._commit,
    Action.RESUME_LEGS: Move._resume_legs,
    Action.RESUME: Move._resume,
    Action.REPOINT: Move._repoint,
    Action.SETTLE: Move._settle,
    Action.SHORTEN: Move._shorten,
    Action.AWAIT_MEMORY: Move._await_memory,
    Action.FORGET: Move._forget,
    Action.RELEASE: Move._release,
    Action.DISCARD: Move._discard,
    Action.CLOSE_INBOUND: Move._close_inbound,
}
