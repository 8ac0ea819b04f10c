"""A source's side on an engine that is scripted: for what CRIU itself does not decide."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from checkpoint.api import NO_FILES, Files
from checkpoint.core.causes import explain
from checkpoint.core.chain import is_chain
from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.engine import DumpReport
from checkpoint.images.store import Store
from checkpoint.kernel import Kernel
from checkpoint.moves.outbound import Outbound
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes.tree import Tree

MOVED = "(00.012345) Error (soccr/soccr.c:371): \trecv failed (1449, want 1448)\n"


class Helper:
    pid = os.getpid()

    async def questions(self) -> None: ...

    async def close(self) -> None: ...


class Scripted:
    """An engine whose dumps end as they are told to."""

    def __init__(self, *endings: AgentError | None) -> None:
        self.endings = list(endings)
        self.prepared = 0
        self.parents: list[str] = []
        """Of each pre-dump and dump."""
        self.broken_off = asyncio.Event()

    def break_off(self, pid: int) -> None:
        assert pid == Helper.pid
        self.broken_off.set()

    async def prepare(self, root: int | None = None, **_: object) -> Helper:
        self.prepared += 1
        return Helper()

    async def stop(self, root: int) -> Tree:
        return Tree()

    def release(self, tree: Tree, reuse_address: object, backlogs: object) -> None: ...

    async def pre_dump(self, helper: Helper, root: int, folders, parent: str) -> None:
        """Writes a page more than a chunk, and, as CRIU does, a link to the round before."""
        self.parents.append(parent)
        if parent:
            assert (folders.images / parent).is_dir()
            (folders.images / "parent").symlink_to(parent)
        (folders.images / "pages-1.img").write_bytes(os.urandom(CHUNK_BYTES + 4096))
        if ending := self.endings.pop(0):
            raise ending

    async def dump(self, helper: Helper, root: int, folders, parent: str = "", **_: object) -> DumpReport:
        self.parents.append(parent)
        left = [one.name for one in folders.images.iterdir()]
        assert is_chain(left) if parent else not left, "what an earlier try had written is gone"
        (folders.images / "mm-1.img").write_bytes(b"half a dump")
        if ending := self.endings.pop(0):
            raise ending
        return DumpReport(1, {})


def queue_moved() -> AgentError:
    problem = explain(MOVED, restoring=False)
    return AgentError(Code(problem.code), problem.message)


@pytest.fixture
async def migrate(tmp_path):
    """Makes a migration, prepared and stopped unless told otherwise, on a scripted engine."""
    store = Store(tmp_path / "images")
    tasks = []

    def spawn(work, name):
        tasks.append(asyncio.get_running_loop().create_task(work, name=name))
        return tasks[-1]

    async def make(
        engine: Scripted,
        *,
        prepare: bool = True,
        stop: bool = True,
        hold: float = 60.0,
        kernel: Kernel | None = None,
        files: Files = NO_FILES,
        save: Callable[[], None] = lambda: None,
        root: int | None = None,
    ) -> Outbound:
        around = Surroundings(kernel or Kernel(), engine, None, store, "", save, spawn, lambda name: None)
        record = MigrationRecord(
            migration="m", workload="w", side="source", state=State.PREPARED, max_hold_seconds=hold
        )
        record.root = Identity(root or os.getpid(), 1)
        migration = Outbound(around, record, "00" * 32, files=files)
        made.append(migration)
        if prepare:
            await migration.prepare()
        if prepare and stop:
            await migration.stop()
        return migration

    made: list[Outbound] = []
    yield make
    for migration in made:
        migration._lease.disarm()
        migration._adopting.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    store.close()
