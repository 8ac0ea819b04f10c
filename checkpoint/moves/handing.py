"""The source's part in memory that is in no image: whoever gives it, from process to process."""

from __future__ import annotations

from checkpoint.core.journal import MigrationRecord
from checkpoint.memory.ways import Giving
from checkpoint.moves.surroundings import Surroundings


class Handing:
    """One migration's; it does nothing where the memory is among the images."""

    def __init__(self, around: Surroundings, record: MigrationRecord) -> None:
        self._around, self._record = around, record
        self.giving: Giving | None = None

    @property
    def port(self) -> int:
        """Where it is given; 0: nowhere."""
        return 0 if self.giving is None else self.giving.port

    @property
    def after(self) -> Giving | None:
        """Whoever gives it after the commit (post-copy); None: all of it is given before, or is among the images."""
        return self.giving if self._record.memory == "post-copy" else None

    async def start(self, key: bytes) -> Giving:
        """Before the freeze. Raises AgentError MEMORY_HELPER."""
        if self.giving is None:
            self.giving = await Giving.start(self._around.kernel, key, next(iter(self._record.readdress)))
            if self.after is not None:  # else it ends with its agent, and the next one has nothing to find
                self._record.pager = self.after.identity
        return self.giving

    async def commit(self) -> None:
        """First of all at the commit: from here on it needs no agent."""
        if self.after is not None:
            await self.after.commit()

    async def close(self) -> None:
        """It is wanted no more."""
        if self.giving is not None:
            await self.giving.close()
            self.giving = None
