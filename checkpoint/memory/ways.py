"""Both ends of post-copy as the agent sees them: `Giving` at the source, `Taking` at the destination.

Each owns one helper process that outlives the agent, and is found again by the next one.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec

from checkpoint.api import Memory, MemorySource
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity
from checkpoint.kernel import Kernel
from checkpoint.memory import giver, taker
from checkpoint.memory.helper import MemoryHelper


class Giving:
    """The source's end."""

    def __init__(self, helper: MemoryHelper) -> None:
        self._helper = helper
        self.port = int(helper.answer.get("port", 0))

    @classmethod
    async def start(cls, kernel: Kernel, image_key: bytes, host: str) -> Giving:
        """Raises AgentError MEMORY_HELPER."""
        order = {"identity": _identity(image_key), "host": host}
        return cls(await MemoryHelper.start(kernel, giver.__name__, [], order))

    @classmethod
    def find(cls, kernel: Kernel, known: Identity | None) -> Giving | None:
        helper = MemoryHelper.find(kernel, known)
        return None if helper is None else cls(helper)

    @property
    def identity(self) -> Identity:
        return self._helper.identity

    async def open(self, pids: list[int]) -> None:
        """These stand still now: their memory may be read."""
        await self._helper.ask({"open": pids})

    async def commit(self) -> None:
        """From now on it goes on without us."""
        await self._helper.ask({"commit": True})

    async def ended(self) -> bool:
        """Wait until it has ended; True when everything was given (False too where that is not known)."""
        await self._helper.ended()
        return self._helper.let_go() == 0

    async def close(self) -> None:
        await self._helper.close()


class Taking:
    """The destination's end. `hold` before the workload runs: from then on it cannot read zeros for lost pages."""

    def __init__(self, kernel: Kernel, helper: MemoryHelper | None, folder: Path) -> None:
        self._helper = helper
        self._folder = folder
        self._held: list[int] = []

    @classmethod
    async def start(cls, kernel: Kernel, image_key: bytes, folder: Path) -> Taking:
        """`folder` is the migration's work folder. Raises AgentError MEMORY_HELPER."""
        order = {"identity": _identity(image_key)}
        return cls(kernel, await MemoryHelper.start(kernel, taker.__name__, [str(folder)], order), folder)

    @classmethod
    def find(cls, kernel: Kernel, known: Identity | None, folder: Path) -> Taking:
        """That of an agent before this one; it may have ended."""
        return cls(kernel, MemoryHelper.find(kernel, known), folder)

    @property
    def identity(self) -> Identity | None:
        return None if self._helper is None else self._helper.identity

    def want(self, source: MemorySource, pages: dict[int, list[tuple[int, int]]]) -> None:
        """Say what has to come, and from where, before the restore that asks for it."""
        wanted = {"host": source.host, "port": source.port, "pages": pages}
        (self._folder / taker.WANTED).write_bytes(msgspec.json.encode(wanted))

    def hold(self) -> None:
        """Have duplicates of every userfaultfd. Raises AgentError MEMORY_LOST when the taker has ended."""
        self.let_go()
        if self._helper is not None:
            self._held = self._helper.userfaultfds()
        if not self._held and self.memory().state != "complete":
            raise AgentError(Code.MEMORY_LOST, "the process that fetches the workload's memory has ended")

    def begin(self) -> None:
        """Fetch everything, from now on."""
        if self._helper is not None:
            self._helper.signal(signal.SIGUSR1)

    def memory(self) -> Memory:
        """How it stands."""
        try:
            return msgspec.json.decode((self._folder / taker.STATUS).read_bytes(), type=Memory)
        except (OSError, msgspec.DecodeError):
            return Memory("lost", "The process that fetches the workload's memory left no word")

    async def ended(self) -> Memory:
        """Wait for its end; how it stood then. Anything but "complete" means that the memory is lost."""
        if self._helper is not None:
            await self._helper.ended()
            self._helper.let_go()
            self._helper = None
        last = self.memory()
        if last.state in ("complete", "lost"):
            return last
        return msgspec.structs.replace(last, state="lost", reason="The process that fetched the memory was killed")

    def let_go(self) -> None:
        """Give the duplicates back: once everything is there, or nobody runs who could read zeros."""
        for fd in self._held:
            os.close(fd)
        self._held.clear()

    async def close(self) -> None:
        """Break it off; the workload's copy has ended before."""
        if self._helper is not None:
            await self._helper.close()
            self._helper = None
        self.let_go()


def _identity(image_key: bytes) -> str:
    # Here, not above: X.509 costs every agent's start 20 ms, and most migrations need none.
    from checkpoint.memory import identity

    return identity.make(image_key).decode()
