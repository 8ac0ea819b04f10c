"""Both ends of memory that is in no image, as the agent sees them: `Giving` at the source, `Taking` at the destination.

Each owns one helper process. With post-copy that outlives the agent from the commit on, and is found again by the next
one; where all of the memory comes before the commit nobody needs it afterwards.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from checkpoint.api import Memory, MemorySource
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity
from checkpoint.images.folder import Images
from checkpoint.kernel import Kernel
from checkpoint.memory import giver, identity, taker
from checkpoint.memory.helper import MemoryHelper
from checkpoint.memory.status import STATUS

MAP = "spared-memory.json"
"""A file of ours among the images: for each PID the ranges that have to come and are in no page map of CRIU's."""

SURVEY_SECONDS = 5.0
"""What has not been looked at by then is looked at in the freeze: 6 to 30 ms a GiB that was written."""


class Giving:
    """The source's end."""

    def __init__(self, helper: MemoryHelper) -> None:
        self._helper = helper
        self.port = int(helper.answer.get("port", 0))

    @classmethod
    async def start(cls, kernel: Kernel, image_key: bytes, host: str) -> Giving:
        """Listening at `host`. Raises AgentError MEMORY_HELPER."""
        order = {"identity": identity.make(image_key).decode(), "host": host}
        return cls(await MemoryHelper.start(kernel, giver.__name__, [], order))

    @classmethod
    def find(cls, kernel: Kernel, known: Identity | None) -> Giving | None:
        helper = MemoryHelper.find(kernel, known)
        return None if helper is None else cls(helper)

    @property
    def identity(self) -> Identity:
        return self._helper.identity

    async def limit(self, bytes_per_second: float) -> None:
        """It gives no more than that; 0: no limit."""
        await self._helper.ask({"rate": bytes_per_second})

    async def early(self, pids: list[int]) -> None:
        """These run: their memory is sent before the freeze, if the taker asks for it."""
        await self._helper.ask({"early": pids})

    async def spare(self, listener: int, pids: list[int]) -> None:
        """Have it answer what CRIU will ask over `listener`, which is closed here, of these above all."""
        try:
            await self._helper.ask({"spare": pids}, listener)
        finally:
            os.close(listener)  # were it open here too, CRIU would wait for ever for an answer of a giver that is dead

    async def survey(self) -> bool:
        """Whether it has looked through the memory of those that CRIU is to be spared; waits for that a while."""
        answer = await self._helper.ask({"survey": SURVEY_SECONDS})
        return bool(answer["ahead"])

    async def open(self, pids: list[int]) -> None:
        """These stand still now: their memory may be read."""
        await self._helper.ask({"open": pids})

    async def show(self, descriptors: Mapping[int, Collection[int]]) -> None:
        """CRIU is not to see these descriptors of each process; whoever has said `spare` says this, too."""
        await self._helper.ask({"show": {pid: list(some) for pid, some in descriptors.items()}})

    async def write_map(self, images: Path) -> list[int]:
        """After the dump: write among the images what CRIU was spared of them. Gives the processes whose large areas
        are in the images as CRIU was shown them (`checkpoint.core.areas.shown`)."""
        answer = await self._helper.ask({"map": str(images / MAP)})
        return list(answer.get("shortened", ()))

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
    async def start(cls, kernel: Kernel, image_key: bytes, folder: Path, *, runs: bool) -> Taking:
        """`folder` is the migration's work folder. `runs`: the workload does, meanwhile, and is killed where its memory
        is lost; else it stands still, and is the agent's to end. Raises AgentError MEMORY_HELPER."""
        order = {"identity": identity.make(image_key).decode(), "runs": runs}
        return cls(kernel, await MemoryHelper.start(kernel, taker.__name__, [str(folder)], order), folder)

    @classmethod
    def find(cls, kernel: Kernel, known: Identity | None, folder: Path) -> Taking:
        """That of an agent before this one; it may have ended."""
        return cls(kernel, MemoryHelper.find(kernel, known), folder)

    @property
    def identity(self) -> Identity | None:
        return None if self._helper is None else self._helper.identity

    def want(self, source: MemorySource, images: Images) -> None:
        """Say what has to come, and from where, before the restore that asks for it."""
        wanted = {"host": source.host, "port": source.port, "pages": _wanted(images)}
        (self._folder / taker.WANTED).write_bytes(msgspec.json.encode(wanted))

    def take_early(self, source: MemorySource, limit_bytes: int) -> None:
        """Take what is sent before the freeze, so much of it."""
        order = {"host": source.host, "port": source.port, "limit_bytes": limit_bytes}
        (self._folder / taker.EARLY).write_bytes(msgspec.json.encode(order))
        if self._helper is not None:
            self._helper.signal(signal.SIGUSR2)

    def early(self) -> Memory:
        """How that stands. Raises AgentError TRANSFER_BROKEN when nothing will come any more."""
        found = self.memory()
        if self._helper is None or self._helper.has_ended:
            reason = found.reason or "the process that takes it has ended"
            raise AgentError(Code.TRANSFER_BROKEN, f"the memory could not be sent before the freeze: {reason}")
        return found

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
            return msgspec.json.decode((self._folder / STATUS).read_bytes(), type=Memory)
        except (OSError, msgspec.DecodeError):
            return Memory("lost", "The process that fetches the workload's memory left no word")

    def abort(self) -> None:
        """Whoever waits for its end is told that the memory is lost."""
        if self._helper is not None:
            self._helper.signal(signal.SIGKILL)

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


def _wanted(images: Images) -> dict[int, list[tuple[int, int]]]:
    """What CRIU left where it was, and what it was spared."""
    pages = images.lazy_pages()
    for pid, spared in images.ours(MAP, dict[int, list[tuple[int, int]]], {}).items():
        pages[pid] = pages.get(pid, []) + spared
    return pages
