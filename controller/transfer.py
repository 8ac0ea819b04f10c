"""Has the two agents of a move agree on how its images travel, before the freeze."""

from __future__ import annotations

import checkpoint.api as agent_api
from controller.clients import AgentClient
from controller.core.errors import Refused
from controller.core.transfer import Transfer


async def agree(
    migration: str,
    wanted: Transfer,
    source: AgentClient,
    destination: AgentClient,
    beacon: agent_api.Beacon | None,
    address: str,
) -> agent_api.TransferWay:
    """Both have been prepared. `beacon` is the source's, `address` the destination pod's own.

    That both see one folder is never assumed: the destination looks for what the source has written there. Where it
    does not see it, or direct was asked for, it listens, and the source connects. Raises MidstreamError.
    """
    if wanted.way != "direct":
        assert beacon is not None
        if (await destination.inbound(migration, "look", agent_api.Sight, beacon)).seen:
            return "shared"
    if wanted.way == "shared":
        message = f"the agent at {address} does not see the folder that the images would be in"
        raise Refused("folder-not-shared", message, "request", "choose --transfer direct, or auto")
    listening = await destination.inbound(migration, "receive", agent_api.Receiving, agent_api.ReceiveImages(address))
    order = agent_api.SendImages(address, listening.port, wanted.streams, wanted.bytes_per_second)
    await source.outbound(migration, "send", agent_api.Custody, order)
    return "direct"
