"""How the source's copy ends after the commit: at once, or with post-copy when its memory has been given."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from checkpoint.memory.ways import Giving
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes.tree import Tree, until_gone

_LOG = logging.getLogger(__name__)

_GONE_SECONDS = 60.0
"""A killed process with much memory takes the kernel a while to take down; nobody waits for it that long."""
_WAIT_SECONDS = 5.0


class Ending:
    """One migration's; `kill` ends the tree, `buried` is called when it is gone."""

    def __init__(
        self, around: Surroundings, migration: str, kill: Callable[[Tree], None], buried: Callable[[], None]
    ) -> None:
        self._around, self._migration, self._kill, self._buried = around, migration, kill, buried
        self._task: asyncio.Task[None] | None = None

    def begin(self, tree: Tree, giving: Giving | None) -> None:
        """`giving`: with post-copy, whoever gives the memory; else it ends before this returns."""
        if giving is None:
            self._kill(tree)
            self._task = self._around.spawn(self._bury(tree), "the source's end")
        else:
            self._task = self._around.spawn(self._give(giving, tree), "the giving of the memory")

    async def passed(self) -> None:
        """Wait for it; in vain where it takes too long, or has not begun."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_WAIT_SECONDS)

    async def _give(self, giving: Giving, tree: Tree) -> None:
        """Post-copy: the source stands still, and never runs again, until its memory is given or nobody wants it."""
        self._around.note()
        if not await giving.ended():
            _LOG.warning("%s: the destination did not say that it has all the memory", self._migration)
        self._kill(tree)
        await self._bury(tree)

    async def _bury(self, tree: Tree) -> None:
        await until_gone(tree, _GONE_SECONDS)
        tree.close()
        self._buried()
        self._around.note()
