"""The names that a migration lends to its workload's files (`checkpoint.baggage.lent`), on record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from checkpoint.baggage import lent
from checkpoint.baggage.lent import Deleted
from checkpoint.core.journal import MigrationRecord
from checkpoint.moves.surroundings import Surroundings


class Naming:
    """One migration's, at its source."""

    def __init__(self, around: Surroundings, record: MigrationRecord) -> None:
        self._around, self._record = around, record

    async def lend(self, used: Iterable[Deleted]) -> None:
        """To what of it needs one; of a stored copy nobody would find it by that. Raises OSError."""
        if self._record.purpose != "move":
            return
        found = await asyncio.to_thread(lent.borrowers, used)
        if new := [one for one in found if one.name not in self._record.lent]:
            self._record.lent = [*self._record.lent, *(one.name for one in new)]
            self._around.save()  # first: an agent that is killed over it knows what to take back
            for one in new:
                lent.lend(one)

    def take_back(self) -> None:
        lent.take_back(self._record.lent)
        self._record.lent = []
