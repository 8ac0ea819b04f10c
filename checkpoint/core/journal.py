"""What the agent writes down so that it can be killed at any moment: the state file's content. Pure: structs and JSON.

It survives the agent, not a power cut: after one of those there is nothing left to look after.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from checkpoint.api import MemoryWay
from checkpoint.core.custody import State

Purpose = Literal["move", "checkpoint", "clone"]


class Identity(msgspec.Struct, frozen=True):
    """A process, named for ever: a PID may be used again, a PID with its start time may not."""

    pid: int
    start_time: int


class WorkloadRecord(msgspec.Struct):
    name: str
    root: Identity
    argv: list[str]
    arrived_by: str = ""
    """The migration that brought it here, or "" when it was started here."""
    cpu_features: list[str] = []
    """Those of where it was started; none: it was here."""


class MigrationRecord(msgspec.Struct):
    migration: str
    workload: str
    side: Literal["source", "destination"]
    state: State
    root: Identity | None = None
    argv: list[str] = []
    members: list[Identity] = []
    """Source: who was stopped. Destination: who was restored."""
    pids: list[int] = []
    """Destination: the PIDs that a restore under way makes; they were free before it."""
    stopped_before: list[int] = []
    helper: Identity | None = None
    """CRIU, while it works: a new agent waits for its end before it touches the tree."""
    memory: MemoryWay = "stop-and-copy"
    pager: Identity | None = None
    """With post-copy: the giver or the taker of the memory. It outlives the agent."""
    readdress: dict[str, str] = {}
    max_hold_seconds: float = 0.0
    reason: str = ""
    cpu_features: list[str] = []
    """The workload's."""
    lent: list[str] = []
    """Names of files, to be taken away when it is over (`checkpoint.baggage.lent`)."""
    purpose: Purpose = "move"
    """Only a move has a controller that comes back for it when the agent was killed."""


class Journal(msgspec.Struct):
    workloads: list[WorkloadRecord] = []
    migrations: list[MigrationRecord] = []


def encode(journal: Journal) -> bytes:
    return msgspec.json.encode(journal)


def decode(raw: bytes) -> Journal | None:
    """Read what `encode` wrote; None for what is no journal, or only a part of one."""
    try:
        return msgspec.json.decode(raw, type=Journal)
    except msgspec.DecodeError:
        return None
