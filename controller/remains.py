"""What a pod that is dead has left: its agent's record says who had the workload when all of it ended."""

from __future__ import annotations

from pathlib import Path

import msgspec

from checkpoint.api import RECORD, Record
from controller.lab.pod import Pod

GIVEN_UP = ("committing", "giving", "committed")


def gave_up(pod: Pod, migration: str) -> bool:
    """Whether the agent of a source that is dead had decided to give the workload up. It writes that down before it
    does it, and lets nothing run from then on: so the destination's copy is all there is, and not a moment old.

    Without it the workload may have gone on in the source, and ended with that.
    """
    path = Path(pod.directory) / RECORD
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    known = next((record for line in reversed(lines) if (record := _record(line)) is not None), Record())
    return any((one.migration, one.side) == (migration, "source") and one.state in GIVEN_UP for one in known.migrations)


def _record(line: bytes) -> Record | None:
    """None: nothing, or cut short."""
    try:
        return msgspec.json.decode(line, type=Record)
    except msgspec.DecodeError:
        return None
