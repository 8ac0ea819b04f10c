"""When a workload that was moved here has ended, the proxy is told, and tells those that keep its former addresses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, WorkloadRecord
from checkpoint.kernel import Kernel
from checkpoint.processes import tree
from checkpoint.sockets.adoption import Adoption
from checkpoint.waiting import readable

_LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_AGAIN_SECONDS = 1.0
"""A proxy that does not answer is being started anew."""


class Farewells:
    """Of all workloads that were moved to this pod. One that moves on from here has not ended."""

    def __init__(
        self,
        kernel: Kernel,
        adopt_path: str,
        spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
        holder: Callable[[str], str],
    ) -> None:
        """`holder`: the migration that has the workload of that name in its hands, or ""."""
        self._kernel = kernel
        self._adopt_path = adopt_path
        self._spawn = spawn
        self._holder = holder
        self._tasks: dict[Identity, asyncio.Task[Any]] = {}
        """By the workload's first process: its name may be another's, while others of its session live."""

    def expect(self, record: WorkloadRecord) -> None:
        """It was moved here, and will end some day, or has."""
        self._tasks[record.root] = self._spawn(self._attend(record), f"the end of {record.name}")

    def moved_on(self, root: Identity) -> None:
        """The workload with that first process: said before anything else can look. Its end here is not its end."""
        if task := self._tasks.pop(root, None):
            task.cancel()

    def close(self) -> None:
        for root in list(self._tasks):
            self.moved_on(root)

    async def _attend(self, record: WorkloadRecord) -> None:
        await self._until_gone(record)
        # A move that has it in its hands may still succeed; and who outlives the first process is the workload too.
        while self._holder(record.name) or tree.session_lives(record.root.pid, record.root.start_time):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        while not await self._tell(record.arrived_by):  # noqa: ASYNC110
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _until_gone(self, record: WorkloadRecord) -> None:
        root = tree.hold(self._kernel, record.root.pid)
        if root is None:
            return
        try:
            if root.start_time == record.root.start_time:
                await readable(root.pidfd)
        finally:
            tree.Tree([root]).close()

    async def _tell(self, migration: str) -> bool:
        """Whether the proxy has answered."""
        try:
            adoption = Adoption(self._adopt_path, migration, lambda: None)
            try:
                await adoption.end()
            finally:
                adoption.close()
        except AgentError as error:
            _LOG.info("the end of what %s has brought: %s", migration, error.problem.message)
            return error.code is not Code.PROXY_UNREACHABLE
        return True
