"""What the agents are told of a workload's memory that does not go the way of the images, and asked about it."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from checkpoint.api import EarlyMemory, Memory, MemorySource, PreDump, PreDumped
from controller.clients import AgentClient
from controller.core.choose import Choice
from controller.core.errors import Answered, MemoryLost
from controller.transfer import UNFROZEN_PATIENCE_SECONDS


async def copy(migration: str, source: AgentClient, choice: Choice, number: int) -> PreDumped:
    """Pre-copy's round `number`, and what is to be done after it. Raises MidstreamError."""
    body = PreDump(number, choice.freeze_seconds)
    return await source.outbound(migration, "predump", PreDumped, body, timeout_seconds=UNFROZEN_PATIENCE_SECONDS)


async def send_early(
    migration: str, destination: AgentClient, choice: Choice, source: MemorySource | None
) -> Memory | None:
    """Have it sent before the freeze; said again: how far that is. None: it is not. Raises MidstreamError."""
    if source is None or not choice.early_bytes:
        return None
    return await destination.inbound(migration, "early", Memory, EarlyMemory(source, choice.early_bytes))


async def look(migration: str, destination: AgentClient, last: Memory | None) -> Memory:
    """How far it has come since `last`. An agent forgets a migration only when everything is there.
    Raises MidstreamError, MemoryLost where it cannot come any more."""
    try:
        found = await destination.memory(migration)
    except Answered as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return msgspec.structs.replace(last or Memory("complete"), state="complete")
    if found.state == "lost":
        raise MemoryLost(found.reason)
    return found
