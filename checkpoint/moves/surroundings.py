"""What every migration of one agent shares."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from checkpoint.core.journal import MigrationRecord, WorkloadRecord
from checkpoint.core.stored import Machine
from checkpoint.engine import Engine
from checkpoint.images.pb import Messages
from checkpoint.images.store import Store
from checkpoint.kernel import Kernel
from checkpoint.processes.openfiles import OpenFiles

_LOG = logging.getLogger(__name__)

STOPPED_BEFORE = "stopped-before.json"
"""A file of ours among the images: the PIDs that must stay stopped at the destination too."""


class Surroundings(msgspec.Struct, frozen=True):
    """What every migration of an agent shares."""

    kernel: Kernel
    engine: Engine
    messages: Messages
    store: Store
    adopt_path: str
    save: Callable[[], None]
    """Write the journal: what has been decided must be on record before it is done. Raises OSError."""
    spawn: Callable[[Any, str], asyncio.Task[Any]]
    """Start a task that the agent owns, by its name."""
    given_up: Callable[[MigrationRecord], None]
    """Its workload is no longer this pod's."""
    folder: Path = Path()
    """The agent's own, for what must outlive it."""
    layer: Path | None = None
    """What is written in the pod, if it has a root of its own."""
    here: Machine = Machine("", "", "", [])
    arrived: Callable[[WorkloadRecord], None] = lambda record: None
    """It was moved here, and runs from now on."""
    require_free: Callable[[str], None] = lambda name: None
    """Raises AgentError WORKLOAD_EXISTS when another workload has that name here."""
    open_files: OpenFiles = msgspec.field(default_factory=lambda: OpenFiles(Kernel()))

    def note(self) -> None:
        """Write the journal, of what has been done in any case: without it the next agent does it once more."""
        try:
            self.save()
        except OSError as error:
            _LOG.warning("not on record: %s", error)
