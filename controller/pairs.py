"""Connections both ends of which are made at the destination before the freeze: what is said of them, and to whom."""

from __future__ import annotations

import logging

import msgspec

import checkpoint.api as agent_api
from controller.core.errors import Answered
from controller.parties import Parties
from controller.transfer import UNFROZEN_PATIENCE_SECONDS

FEWEST_PAIRS = 64
"""So many connections are worth it to make both their ends ahead: to keep CRIU from seeing them takes some milliseconds
itself, and CRIU has made fewer by then."""
_NONE = msgspec.Raw(b"[]")
_LOG = logging.getLogger(__name__)


class Pairs:
    """One migration's. Before the freeze `foresee`, `make`, `spare`, or `forget`; inside it `compare` and `adjust`."""

    def __init__(self, parties: Parties, migration: str, patience_seconds: float) -> None:
        """`patience_seconds`: how long a call inside the hold may take."""
        self._parties, self._id, self._patience_seconds = parties, migration, patience_seconds
        self._foreseen = agent_api.Connections(_NONE, [])
        self._made = agent_api.Paired([])
        self._changes = agent_api.Changes([])

    async def foresee(self) -> None:
        body = agent_api.Foresee(FEWEST_PAIRS)
        self._foreseen = await self._parties.source_agent.outbound(self._id, "foresee", agent_api.Connections, body)

    async def make(self) -> None:
        """Both ends of each; where one of them cannot be had, the connection goes by its image."""
        if not self._foreseen.sockets:
            return
        wanted, patience, agent = self._foreseen, UNFROZEN_PATIENCE_SECONDS, self._parties.destination_agent
        try:
            await self._parties.destination_proxy.build_ahead(self._id, wanted.legs, patience)
            self._made = await agent.inbound(self._id, "pair", agent_api.Paired, wanted, patience)
        except Answered as error:
            _LOG.info("%s: no connection is made ahead: %s", self._id, error)

    async def spare(self) -> None:
        if self._made.flows:
            await self._parties.source_agent.outbound(self._id, "pair", agent_api.Custody, self._made)

    async def forget(self) -> None:
        """Both agents have: they are to be made anew."""
        if self._foreseen.sockets:
            await self._parties.destination_proxy.build_ahead(self._id, _NONE, UNFROZEN_PATIENCE_SECONDS)
            self._made = agent_api.Paired([])

    async def compare(self) -> None:
        if self._made.flows:
            agent, patience = self._parties.source_agent, self._patience_seconds
            self._changes = await agent.outbound(self._id, "compare", agent_api.Changes, timeout_seconds=patience)

    async def adjust(self) -> None:
        if self._changes.changes:
            await self._parties.destination_agent.inbound(self._id, "adjust", agent_api.Custody, self._changes)
