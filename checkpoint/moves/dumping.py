"""CRIU's part at the source: started before the freeze, and asked again where a peer's bytes spoilt its dump."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord
from checkpoint.criu.hiding import Hiding
from checkpoint.engine import Asking, DumpReport, Folders, Helper
from checkpoint.images.growing import Tags
from checkpoint.memory.ways import Giving
from checkpoint.moves import logs
from checkpoint.moves.rounds import Rounds
from checkpoint.moves.shipping import Shipping
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes.stopping import until_stopped
from checkpoint.processes.tree import Tree, descendants, stat

_LOG = logging.getLogger(__name__)

DUMP_TRIES = 3
"""The queues of a stopped workload fill up, and then stand still: so a later try is better off than the first."""
_READY_SECONDS = 1.0
"""It takes some milliseconds, as a rule; one that takes longer gets ready while the workload stands still."""


Show = Callable[[Mapping[int, Collection[int]]], Awaitable[bool]]
"""Says which descriptors of some processes CRIU is to see, and no others; gives whether it will."""


class Beside(NamedTuple):
    """What is done with the images while CRIU writes them."""

    shipping: Shipping
    look: Callable[[Show], None]
    """CRIU is about to dump: have it shown what it is to see."""
    tagging: Callable[[Tags], AbstractContextManager[None]]
    """Given the tags of what is there before."""
    again: Callable[[], Awaitable[None]]
    """All of that dump was in vain; there will be another."""


class Dumping:
    """One migration's."""

    def __init__(self, around: Surroundings, record: MigrationRecord, ghost_limit_bytes: int, rounds: Rounds) -> None:
        self._around, self._record, self._rounds = around, record, rounds
        self._ghost_limit_bytes = ghost_limit_bytes
        self._helper: Helper | None = None
        self._working: Helper | None = None
        self._broken_off: AgentError | None = None
        self._giving: Giving | None = None
        self._hiding: Hiding | None = None
        self._hides = self._can_hide = False
        self._begun: asyncio.Task[DumpReport] | None = None
        """The dump that was asked for before the stop."""

    async def prepare(self, giving: Giving | None, *, hides: bool = False) -> None:
        """Start CRIU, so that the freeze does not pay for it; another one, where it is said again. `giving`: whoever
        gives the memory, where it is in no image. `hides`: it will be kept from some descriptors (`show`)."""
        await self.close()
        self._giving, self._hides = giving, self._hides or hides
        self._helper = await self._start()

    async def _start(self) -> Helper:
        root = self._record.root
        pid = None if root is None else root.pid
        asking = Asking.START
        if self._hides or self._lazily:
            asking = Asking.DESCRIPTORS
        elif self._record.memory == "pre-copy":  # who stands in for a kernel that tracks has questions of its own
            asking = Asking.NOTHING
        helper = await self._around.engine.prepare(pid, asking=asking, lazily=self._lazily)
        try:
            listener = await helper.questions()
            self._can_hide = listener is not None and asking is Asking.DESCRIPTORS
            if listener is not None:
                await self._have_answered(listener)
        except BaseException:
            await helper.close()
            raise
        return helper

    async def _have_answered(self, listener: int) -> None:
        """By whoever gives the memory, where that is in no image, for CRIU asks for it there; else by us."""
        root = self._record.root
        if self._giving is not None:
            await self._giving.spare(listener, [] if root is None else descendants(root.pid))
        else:
            self._let_go()
            self._hiding = Hiding(self._around.kernel, listener)

    async def show(self, descriptors: Mapping[int, Collection[int]]) -> bool:
        """Of these processes CRIU is to see these descriptors alone; it waits until that is said, which is said once.
        Gives whether it will."""
        can_hide, self._can_hide = self._can_hide, False
        if can_hide and self._giving is not None:
            await self._giving.show(descriptors)
        elif can_hide and self._hiding is not None:
            self._hiding.show(descriptors)
        return can_hide

    def _let_go(self) -> None:
        if self._hiding is not None:
            self._hiding.close()
            self._hiding = None

    async def begin(self, folders: Folders, beside: Beside) -> None:
        """Have CRIU get ready while the workload runs: it waits for the stop then. What it fails with `dump` raises."""
        root, helper, hiding = self._record.root, self._helper, self._hiding
        if root is None or helper is None or hiding is None or self._begun is not None:
            return
        self._helper = None
        self._begun = asyncio.create_task(self._run(helper, root.pid, folders, beside), name="criu's dump")
        ready = asyncio.create_task(hiding.is_ready.wait(), name="criu's beginning")
        await asyncio.wait({self._begun, ready}, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()

    async def dump(self, tree: Tree, folders: Folders, beside: Beside) -> DumpReport:
        """Dump the stopped tree. Raises AgentError.

        Once more, from the start, where a peer's bytes came between CRIU's two looks at their queue.
        """
        with logs.keeping(self._around.folder, f"{self._record.migration}.dump"):
            return await self._dump(tree, folders, beside)

    def break_off(self, why: AgentError) -> None:
        """There will be no dump, and one that is under way fails."""
        self._broken_off = why
        if self._working is not None:
            self._around.engine.break_off(self._working.pid)

    async def _dump(self, tree: Tree, folders: Folders, beside: Beside) -> DumpReport:
        for _ in range(DUMP_TRIES - 1):
            try:
                return await self._dump_once(tree, folders, beside)
            except AgentError as error:
                if error.code is not Code.QUEUE_MOVED:
                    raise
                _LOG.info("%s: %s: dumping once more", self._record.migration, error)
                beside.shipping.restart()
                await beside.again()
                # CRIU has sent them SIGSTOP as it let go. One that is pending still when the next CRIU seizes the task
                # may count twice there, and be waited for in vain (criu: compel/src/lib/infect.c, skip_sigstop).
                await until_stopped(self._around.kernel, tree.pids)
                self._rounds.forget()
                self._around.store.make(self._record.migration)
        return await self._dump_once(tree, folders, beside)

    async def _dump_once(self, tree: Tree, folders: Folders, beside: Beside) -> DumpReport:
        if self._broken_off is not None:
            raise self._broken_off
        begun: Awaitable[DumpReport]
        if self._begun is not None:
            begun, self._begun = self._begun, None
        else:
            helper = self._helper or await self._start()
            self._helper = None
            if self._giving is not None:
                await self._giving.open(tree.pids)
            assert self._record.root is not None
            begun = self._run(helper, self._record.root.pid, folders, beside)
        beside.look(self.show)
        if self._hiding is not None:
            self._hiding.begin()
        try:
            report = await begun
        except AgentError as error:
            if self._broken_off is not None:
                raise self._broken_off from error
            raise
        await until_stopped(self._around.kernel, tree.pids)
        return report

    async def _run(self, helper: Helper, root: int, folders: Folders, beside: Beside) -> DumpReport:
        self._working = helper
        try:
            beside.shipping.watch()
            seen = stat(helper.pid)
            self._record.helper = None if seen is None else Identity(helper.pid, seen.start_time)
            self._around.save()
            with beside.tagging(self._rounds.tags):
                return await self._around.engine.dump(
                    helper, root, folders, ghost_limit_bytes=self._ghost_limit_bytes, lazily=self._lazily,
                    parent=self._rounds.parent,
                )  # fmt: skip
        finally:
            self._record.helper = self._working = None
            self._let_go()
            self._around.spawn(helper.close(), "criu's end")

    async def close(self) -> None:
        """CRIU is wanted no more."""
        self._let_go()  # one that waits for the stop fails, and has done nothing
        if self._begun is not None:
            begun, self._begun = self._begun, None
            if self._working is not None:
                self._working.abort()
            with suppress(AgentError):
                await begun
        if self._helper is not None:
            await self._helper.close()
            self._helper = None

    @property
    def _lazily(self) -> bool:
        return self._giving is not None
