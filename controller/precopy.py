"""Has the source's agent copy memory while the workload runs."""

from __future__ import annotations

from checkpoint.api import PreDump, PreDumped
from controller.clients import AgentClient
from controller.core.predict import Choice
from controller.transfer import UNFROZEN_PATIENCE_SECONDS


async def copy(migration: str, source: AgentClient, choice: Choice, number: int) -> PreDumped:
    """Round `number`, and what is to be done after it. Raises MidstreamError."""
    body = PreDump(number, choice.freeze_seconds)
    return await source.outbound(migration, "predump", PreDumped, body, timeout_seconds=UNFROZEN_PATIENCE_SECONDS)
