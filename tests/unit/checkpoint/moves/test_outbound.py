"""The source's side where CRIU itself does not decide: a dump to be tried again, on an engine that is scripted."""

from __future__ import annotations

import asyncio
import os

import pytest

from checkpoint.core.causes import explain
from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord
from checkpoint.engine import DumpReport
from checkpoint.images.store import Store
from checkpoint.kernel import Kernel
from checkpoint.moves.dumping import DUMP_TRIES
from checkpoint.moves.outbound import Outbound
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes.tree import Tree

MOVED = "(00.012345) Error (soccr/soccr.c:371): \trecv failed (1449, want 1448)\n"


class Helper:
    pid = os.getpid()

    async def close(self) -> None: ...


class Scripted:
    """An engine whose dumps end as they are told to."""

    def __init__(self, *endings: AgentError | None) -> None:
        self.endings = list(endings)
        self.prepared = 0

    async def prepare(self, root: int | None = None, *, lazily: bool = False) -> Helper:
        self.prepared += 1
        return Helper()

    async def stop(self, root: int) -> Tree:
        return Tree()

    async def dump(self, helper: Helper, tree: Tree, folders, **_: object) -> DumpReport:
        assert not list(folders.images.iterdir()), "what an earlier try had written is gone"
        (folders.images / "core-1.img").write_bytes(b"half a dump")
        if ending := self.endings.pop(0):
            raise ending
        return DumpReport(1, {})


def queue_moved() -> AgentError:
    problem = explain(MOVED, restoring=False)
    return AgentError(Code(problem.code), problem.message)


@pytest.fixture
async def migrate(tmp_path):
    """Makes a migration, stopped, on a scripted engine."""
    store = Store(tmp_path / "images")
    tasks = []

    def spawn(work, name):
        tasks.append(asyncio.get_running_loop().create_task(work, name=name))
        return tasks[-1]

    async def make(engine: Scripted) -> Outbound:
        around = Surroundings(Kernel(), engine, None, store, "", lambda: None, spawn, lambda name: None)
        record = MigrationRecord(
            migration="m", workload="w", side="source", state=State.PREPARED, max_hold_seconds=60.0
        )
        record.root = Identity(os.getpid(), 1)
        migration = Outbound(around, record, "00" * 32)
        await migration.prepare()
        await migration.stop()
        made.append(migration)
        return migration

    made: list[Outbound] = []
    yield make
    for migration in made:
        migration._lease.disarm()
    await asyncio.gather(*tasks, return_exceptions=True)
    store.close()


async def test_a_dump_that_a_peers_bytes_spoilt_is_made_again(migrate):
    engine = Scripted(queue_moved(), None)
    migration = await migrate(engine)
    assert (await migration.dump()).processes == 1
    assert engine.prepared == 2
    assert migration.state is State.DUMPED


async def test_but_not_for_ever(migrate):
    engine = Scripted(*(queue_moved() for _ in range(DUMP_TRIES)))
    migration = await migrate(engine)
    with pytest.raises(AgentError) as error:
        await migration.dump()
    assert error.value.code is Code.QUEUE_MOVED
    assert migration.state is State.STOPPED


async def test_and_not_for_another_cause(migrate):
    engine = Scripted(AgentError(Code.NO_SPACE, "full"), None)
    migration = await migrate(engine)
    with pytest.raises(AgentError, match="full"):
        await migration.dump()
    assert len(engine.endings) == 1
