"""What the two agents of a move do together before the freeze: agree on how its images travel, carry its files."""

from __future__ import annotations

import msgspec

import checkpoint.api as agent_api
from controller.clients import AgentClient
from controller.core.errors import Refused
from controller.core.plan import Plan, room_to_reserve
from controller.core.transfer import Transfer

UNFROZEN_PATIENCE_SECONDS = 3600.0
"""The workload runs while its files are packed and unpacked, or its memory copied: it takes the time that it takes.
Files of which nothing moves any more are given up by the agents, much earlier."""

TRIAL_PATIENCE_SECONDS = 90.0
"""An archive is tried out within a few seconds; a program that is to give the key may take 30."""


class Depot(msgspec.Struct, frozen=True):
    """With the way `store`: where to, and the key-encryption key. In no journal: it has the archive's credentials."""

    archive: agent_api.Archive
    key: agent_api.KeySource

    def storing(self, deadline_seconds: float, *, files: bool = False) -> agent_api.StoreImages:
        return agent_api.StoreImages(self.archive, self.key, deadline_seconds, files)

    def fetching(self, deadline_seconds: float) -> agent_api.FetchImages:
        return agent_api.FetchImages(self.archive, self.key, deadline_seconds)


class Agreed(msgspec.Struct, frozen=True):
    """How the images travel, and the port at the source where the memory is given that is in none of them; 0: none."""

    way: agent_api.TransferWay = "shared"
    memory_port: int = 0

    def memory_at(self, host: str) -> agent_api.MemorySource | None:
        """Where it is given, of a source at `host`."""
        return agent_api.MemorySource(host, self.memory_port) if self.memory_port else None


async def agree(
    migration: str,
    wanted: Transfer,
    source: AgentClient,
    destination: AgentClient,
    prepared: agent_api.Custody,
    address: str,
    depot: Depot | None,
    max_hold_seconds: float,
    *,
    straight: bool,
) -> Agreed:
    """Both have been prepared: `prepared` is the source's word, `address` the destination pod's own. The workload
    stands still for `max_hold_seconds` at the most while its images are stored. `straight`: where they are sent, the
    memory shall go from process to process, through no image.

    That both see one folder is never assumed: the destination looks for what the source has written there. Where it
    does not see it, or direct was asked for, it listens, and the source connects. Raises MidstreamError.
    """
    if wanted.way == "store":
        if depot is None:
            message = "images that are stored on their way are sealed with a key: name an archive and a key"
            raise Refused("no-key", message, "request", "say --archive PLACE and --key-file FILE")
        hold, patience = max_hold_seconds, TRIAL_PATIENCE_SECONDS
        await source.outbound(migration, "store", agent_api.Custody, depot.storing(hold), timeout_seconds=patience)
        # Whether it is the same archive, and the same key, as seen from there.
        await destination.inbound(migration, "try", agent_api.Custody, depot.fetching(hold), timeout_seconds=patience)
        return Agreed("store", prepared.memory_port)
    if wanted.way != "direct":
        assert prepared.beacon is not None
        if (await destination.inbound(migration, "look", agent_api.Sight, prepared.beacon)).seen:
            return Agreed("shared", prepared.memory_port)
    if wanted.way == "shared":
        message = f"the agent at {address} does not see the folder that the images would be in"
        raise Refused("folder-not-shared", message, "request", "choose --transfer direct, or auto")
    listening = await _listen(migration, destination, agent_api.ReceiveImages(address, memory=straight))
    order = agent_api.SendImages(address, listening.port, wanted.streams, wanted.bytes_per_second, memory=straight)
    sending = await source.outbound(migration, "send", agent_api.Custody, order)
    return Agreed("direct", sending.memory_port)


async def reserve(migration: str, destination: AgentClient, plan: Plan, agreed: Agreed) -> agent_api.Reserved | None:
    """Have room for the images taken at the destination, before the freeze; said again: how far that is. None: it is
    not. Raises MidstreamError."""
    wanted = room_to_reserve(plan) if agreed.way == "direct" else None
    if wanted is None:
        return None
    return await destination.inbound(migration, "reserve", agent_api.Reserved, wanted)


async def carry_files(
    migration: str, source: AgentClient, destination: AgentClient, wanted: Transfer | Depot | None, address: str
) -> None:
    """The workload's files, as they are now, beside where they belong; `wanted`: how they are sent to `address`, or
    where they are stored, where the destination does not see the source's folder. Raises MidstreamError."""
    patience = UNFROZEN_PATIENCE_SECONDS
    packed = await source.outbound(migration, "pack", agent_api.Packed, timeout_seconds=patience)
    if not packed.folder:
        return
    if isinstance(wanted, Depot):
        order = wanted.storing(patience, files=True)
        await source.outbound(migration, "store", agent_api.Custody, order, timeout_seconds=patience)
        packed = msgspec.structs.replace(packed, stored=wanted.fetching(patience))
    elif wanted is not None:
        listening = await _listen(migration, destination, agent_api.ReceiveImages(address, files=True))
        sending = agent_api.SendImages(address, listening.port, wanted.streams, wanted.bytes_per_second, files=True)
        await source.outbound(migration, "send", agent_api.Custody, sending, timeout_seconds=patience)
        packed = msgspec.structs.replace(packed, folder=listening.folder)
    await destination.inbound(migration, "stage", agent_api.Custody, packed, timeout_seconds=patience)


async def _listen(migration: str, destination: AgentClient, order: agent_api.ReceiveImages) -> agent_api.Receiving:
    return await destination.inbound(migration, "receive", agent_api.Receiving, order)
