"""Everything one agent has in its care: workloads, migrations, and the journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from checkpoint.api import RECORD, Belongings, Custody, PrepareInbound, PrepareOutbound, Problem, RunWorkload, Workload
from checkpoint.baggage.incoming import came
from checkpoint.baggage.outgoing import Outgoing
from checkpoint.core.custody import FINAL, GIVEN_UP, State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Journal, MigrationRecord, Purpose, WorkloadRecord
from checkpoint.core.stored import Machine
from checkpoint.engine import Engine
from checkpoint.images.pb import Messages
from checkpoint.images.store import Store
from checkpoint.inspection import belongings
from checkpoint.kernel import Kernel
from checkpoint.moves.farewells import Farewells
from checkpoint.moves.inbound import Inbound
from checkpoint.moves.outbound import Outbound
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import tree
from checkpoint.processes.workloads import Workloads, check_name
from checkpoint.recovery import recover_destination, recover_source
from checkpoint.statefile import StateFile

_LOG = logging.getLogger(__name__)

AnySide = TypeVar("AnySide", Outbound, Inbound)


class Custodian:
    """Owner of all of it."""

    def __init__(
        self, kernel: Kernel, engine: Engine, messages: Messages, store: Store, directory: Path, adopt_path: str,
        pid_base: int, here: Machine, layer: Path | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.workloads = Workloads(kernel, directory, pid_base)
        self._kernel = kernel
        self._file = StateFile(directory / RECORD)
        self._farewells = Farewells(kernel, adopt_path, self._spawn, self.holder)
        self._around = Surroundings(
            kernel, engine, messages, store, adopt_path, self._save, self._spawn, self._moved_on, directory / "agent",
            layer, here, self._farewells.expect, self.require_free,
        )  # fmt: skip
        self._outbound: dict[str, Outbound] = {}
        self._inbound: dict[str, Inbound] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- workloads

    def require_free(self, name: str) -> None:
        """Raise AgentError WORKLOAD_EXISTS when a workload of that name is in the pod, or on its way from a restore."""
        self.workloads.require_free(name)
        for one in self._inbound.values():
            if one.record.workload == name and one.state in (State.RESTORING, State.RESTORED):
                message = f"a workload {name!r} is just arriving, by migration {one.record.migration}"
                raise AgentError(Code.WORKLOAD_EXISTS, message)

    async def run(self, wanted: RunWorkload) -> Workload:
        self.require_free(wanted.name)
        record = await self.workloads.run(wanted)
        try:
            self._save()
        except OSError:
            await self.workloads.kill(record.name)
            raise
        return self.view(record)

    async def kill(self, name: str) -> Workload:
        if holder := self.holder(name):
            raise AgentError(Code.ALREADY_MIGRATING, f"the workload {name!r} is in the hands of migration {holder}")
        view = await self.workloads.kill(name)
        self._around.note()
        return view

    def view(self, record: WorkloadRecord) -> Workload:
        return self.workloads.view(record, self.holder(record.name))

    @property
    def own_root(self) -> bool:
        """Whether the pod has one."""
        return self._around.layer is not None

    def belongings(self, record: WorkloadRecord, named: list[str]) -> tuple[Belongings, list[Problem], list[Problem]]:
        """What of files belongs to a workload, with what is named besides, what stands in the way, and what to know
        before. Blocks. Raises AgentError NO_FOLDER."""
        came_with = came(self._around.folder, record.name, record.arrived_by)
        outgoing = Outgoing(self.store.root, self._around.layer, named, came_with)
        return belongings.look(tree.descendants(record.root.pid), outgoing, own_root=self.own_root)

    def holder(self, name: str) -> str:
        """The migration that has a workload in its hands, or ""."""
        for one in self._outbound.values():
            if one.record.workload == name and one.state not in FINAL | {State.GIVING}:
                return one.record.migration
        for other in self._inbound.values():
            if other.record.workload == name and other.state is State.TAKING:
                return other.record.migration
        return ""

    def keep(self, record: WorkloadRecord) -> None:
        """Put what is known of a workload on record anew."""
        self.workloads.adopt(record)
        self._around.note()

    # -- migrations

    def pids_on_their_way(self) -> set[int]:
        """The PIDs of copies that are being restored here, or stand restored."""
        return {pid for one in self._inbound.values() if one.state not in FINAL for pid in one.record.pids}

    def all(self) -> list[Custody]:
        return [one.custody() for one in self._both()]

    def outbound(self, migration: str) -> Outbound:
        if migration not in self._outbound:
            raise AgentError(Code.NO_MIGRATION, f"no migration {migration!r} goes out from here")
        return self._outbound[migration]

    def inbound(self, migration: str) -> Inbound:
        if migration not in self._inbound:
            raise AgentError(Code.NO_MIGRATION, f"no migration {migration!r} comes in here")
        return self._inbound[migration]

    async def prepare_outbound(self, migration: str, wanted: PrepareOutbound, purpose: Purpose = "move") -> Custody:
        check_name(migration)
        if (known := self._outbound.get(migration)) is not None:
            return _same(known, known.same_as(wanted))
        record = self.workloads.get(wanted.workload)
        if holder := self.holder(wanted.workload):
            raise AgentError(Code.ALREADY_MIGRATING, f"the workload {wanted.workload!r} is in the hands of {holder}")
        if not tree.is_alive(record.root.pid, record.root.start_time):
            raise AgentError(Code.WORKLOAD_GONE, f"the workload {record.name} (process {record.root.pid}) has ended")
        one = Outbound(self._around, MigrationRecord(
            migration, wanted.workload, "source", State.PREPARED, root=record.root, argv=record.argv,
            readdress=wanted.readdress, max_hold_seconds=wanted.max_hold_seconds, memory=wanted.memory, purpose=purpose,
            cpu_features=record.cpu_features,
        ), wanted.image_key, allow_loss=wanted.allow_loss, files=wanted.files,
            arrived=came(self._around.folder, record.name, record.arrived_by))  # fmt: skip
        self._file.tidy(self._journal())
        return await self._prepare(self._outbound, one)

    async def prepare_inbound(self, migration: str, wanted: PrepareInbound, purpose: Purpose = "move") -> Custody:
        check_name(migration)
        check_name(wanted.workload)
        if (known := self._inbound.get(migration)) is not None:
            return _same(known, known.same_as(wanted))
        self.require_free(wanted.workload)
        record = MigrationRecord(
            migration, wanted.workload, "destination", State.WAITING, argv=wanted.argv, memory=wanted.memory,
            cpu_features=wanted.cpu_features, purpose=purpose,
        )  # fmt: skip
        one = Inbound(self._around, self.workloads, record, wanted.image_key, wanted.files)
        return await self._prepare(self._inbound, one)

    async def _prepare(self, mine: dict[str, AnySide], one: AnySide) -> Custody:
        """Have it prepared, and on record. What fails leaves nothing."""
        migration = one.record.migration
        mine[migration] = one
        try:
            custody = await one.prepare()
            try:
                self._save()
            except OSError:
                await one.forget()
                raise
        except BaseException:
            mine.pop(migration, None)
            raise
        return custody

    async def forget_outbound(self, migration: str) -> Custody:
        custody = await self.outbound(migration).forget()
        self._outbound.pop(migration, None)
        self._around.note()
        return custody

    async def forget_inbound(self, migration: str) -> Custody:
        custody = await self.inbound(migration).forget()
        self._inbound.pop(migration, None)
        self._around.note()
        return custody

    # -- the agent's own life

    async def recover(self) -> None:
        """Read the journal of the agent before this one and finish or take back what it left."""
        past = self._file.load()
        for record in past.workloads:
            if tree.is_alive(record.root.pid, record.root.start_time):
                self.workloads.adopt(record)
        for migration in past.migrations:
            await self._recover(migration)
            if migration.purpose != "move":
                await self._drop(migration)
        self._around.note()
        gone_on = {one.root for one in past.migrations if one.side == "source" and one.state in GIVEN_UP}
        for record in past.workloads:
            if record.arrived_by and record.root not in gone_on:
                self._farewells.expect(record)

    def _moved_on(self, record: MigrationRecord) -> None:
        self.workloads.forget(record.workload)
        assert record.root is not None
        self._farewells.moved_on(record.root)

    async def _recover(self, record: MigrationRecord) -> None:
        if record.side == "source":
            self._outbound[record.migration] = await recover_source(self._around, self.workloads, record)
        else:
            self._inbound[record.migration] = await recover_destination(self._around, self.workloads, record)

    async def _drop(self, record: MigrationRecord) -> None:
        """A checkpoint or a copy that this agent's predecessor was killed over: nobody asks for it again."""
        if record.side == "source":
            await self.forget_outbound(record.migration)
        else:
            await self.forget_inbound(record.migration)

    async def close(self) -> None:
        """Shut down: what is held goes back, what is given up stays so, every task ends."""
        for one in self._both():
            await one.close()
        self._farewells.close()
        while self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
            for task in self._tasks:
                task.cancel()
        self.store.close()
        self._file.close()

    def _save(self) -> None:
        self._file.save(self._journal())

    def _journal(self) -> Journal:
        return Journal(self.workloads.records(), [one.record for one in self._both()])

    def _both(self) -> list[Outbound | Inbound]:
        return [*self._outbound.values(), *self._inbound.values()]

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("%s: %s", task.get_name(), error, exc_info=error)


def _same(known: Outbound | Inbound, same: bool) -> Custody:
    if not same:
        raise AgentError(Code.WRONG_STATE, f"migration {known.record.migration} was prepared with something else")
    return known.custody()
