"""The agent's state file: replaced whole, by rename, so that it is always one state or the next."""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.core import journal
from checkpoint.core.journal import Journal


class StateFile:
    """Not synced to the disk: it must outlive the agent, not the machine, and a sync costs the freeze milliseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_suffix(".new")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> Journal:
        try:
            return journal.decode(self._path.read_bytes())
        except FileNotFoundError:
            return Journal()

    def save(self, content: Journal) -> None:
        with open(self._temporary, "wb", opener=_private) as file:
            file.write(journal.encode(content))
        self._temporary.replace(self._path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
