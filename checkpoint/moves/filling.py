"""The destination's part in memory that is in no image: it is fetched, from process to process, before the commit, or,
with post-copy, while the workload runs, until the last page has come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from checkpoint.api import EarlyMemory, Memory, MemorySource
from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import MigrationRecord
from checkpoint.images.folder import Images
from checkpoint.memory.ways import Taking
from checkpoint.moves.surroundings import Surroundings


class Filling:
    """One migration's; it does nothing where the memory is among the images."""

    def __init__(self, around: Surroundings, record: MigrationRecord) -> None:
        self._around, self._record = around, record
        self._taking: Taking | None = None
        self._early = False

    @property
    def lazily(self) -> bool:
        """Whether memory is still to come when CRIU is done."""
        return self._taking is not None

    @property
    def later(self) -> bool:
        """Whether it is still to come when the workload runs."""
        return self._record.memory == "post-copy" and self._taking is not None

    async def prepare(self, key: bytes, work: Path) -> None:
        """Start the taker. Raises AgentError MEMORY_HELPER."""
        if self._taking is None:
            runs = self._record.memory == "post-copy"
            self._taking = await Taking.start(self._around.kernel, key, work, runs=runs)
            self._record.pager = self._taking.identity

    def find(self, work: Path) -> None:
        """After the agent's restart: that of the agent before."""
        if self._record.memory == "post-copy":
            self._taking = Taking.find(self._around.kernel, self._record.pager, work)
            with suppress(AgentError):  # it has ended: whoever watches it hears of it at once
                self._taking.hold()

    def take_early(self, wanted: EarlyMemory) -> Memory:
        """Take what of the memory is sent while the workload runs at the source; said again: how that stands.

        Raises AgentError, TRANSFER_BROKEN where nothing will come any more, WRONG_STATE where none goes this way."""
        if self._taking is None or self.later:
            raise AgentError(Code.WRONG_STATE, "this migration's memory is not sent before the freeze")
        if not self._early:
            self._early = True
            self._taking.take_early(wanted.source, wanted.limit_bytes)
        return self._taking.early()

    def want(self, source: MemorySource | None, folder: Path) -> None:
        """Say what has to come, and from where, before the restore."""
        if self._taking is not None and source is not None:
            self._taking.want(source, Images(folder, self._around.messages))

    async def secure(self) -> None:
        """The workload stands restored: it must not run without its memory, and has all of it afterwards unless that
        comes later. Raises AgentError, MEMORY_LOST or TRANSFER_BROKEN."""
        if self._taking is None:
            return
        if self.later:
            self._taking.hold()
            return
        self._taking.begin()
        found = await self._taking.ended()
        if found.state != "complete":
            raise AgentError(Code.TRANSFER_BROKEN, f"the memory did not come: {found.reason}")

    def abort(self) -> None:
        """Break `secure` off: it fails."""
        if self._taking is not None and not self.later:
            self._taking.abort()

    def begin(self, ended: Callable[[Memory], Awaitable[None]]) -> None:
        """The workload runs: fetch everything that is left; then `ended` is told how it stands."""
        if self._taking is not None and self.later:
            self._taking.begin()
            self._around.spawn(self._until_taken(self._taking, ended), "the fetching of the memory")

    async def _until_taken(self, taking: Taking, ended: Callable[[Memory], Awaitable[None]]) -> None:
        await ended(await taking.ended())
        taking.let_go()
        self._around.note()

    def memory(self, state: State, reason: str) -> Memory:
        """How it stands with the memory; complete from the beginning where it came with the images."""
        if self._taking is None:
            return Memory("complete")
        found = self._taking.memory()
        if state is State.LOST:
            return msgspec.structs.replace(found, state="lost", reason=reason)
        # What the taker has finished is said once the workload depends on it no more.
        pending = found.state == "complete" and state is State.TAKING
        return msgspec.structs.replace(found, state="fetching") if pending else found

    async def close(self) -> None:
        """Break it off; the workload's copy has ended before."""
        if self._taking is not None:
            await self._taking.close()
