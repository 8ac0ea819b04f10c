"""How the fetching stands, in a file that the agent reads, and the next agent after it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

STATUS = "memory.json"
STATUS_SECONDS = 0.05
"""So often it is written while something goes on."""

State = Literal["waiting", "fetching", "complete", "lost"]


class Status:
    """What is counted; `checkpoint.api.Memory` says what each means."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.began = time.monotonic()
        self.total_bytes = 0
        self.faults = 0
        self._early: dict[str, object] = {}

    def early(self, *, coming: bool, size: int, kept_bytes: int) -> None:
        """What was sent before the freeze, and how much of it was put into the processes as it was."""
        self._early = {"early": "coming" if coming else "there", "early_bytes": size, "kept_bytes": kept_bytes}

    def write(self, state: State, left_bytes: int, now: float, reason: str = "") -> None:
        """Replaced at once: whoever reads has the old or the new."""
        status = {
            "state": state,
            "reason": reason,
            "total_bytes": self.total_bytes,
            "arrived_bytes": max(0, self.total_bytes - left_bytes),
            "faults": self.faults,
            "seconds": round(now - self.began, 6),
            **self._early,
        }
        beside = self._folder / f"{STATUS}.new"
        beside.write_text(json.dumps(status))
        beside.rename(self._folder / STATUS)
