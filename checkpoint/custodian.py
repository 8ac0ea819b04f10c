"""Everything one agent has in its care: workloads, migrations, the journal, and what a restart leaves to be done."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoint import belongings
from checkpoint.api import Belongings, Custody, PrepareInbound, PrepareOutbound, Problem, RunWorkload, Workload
from checkpoint.baggage.incoming import came
from checkpoint.baggage.outgoing import Outgoing
from checkpoint.core.custody import FINAL, HOLDING, State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Journal, MigrationRecord, Purpose, WorkloadRecord
from checkpoint.core.stored import Machine
from checkpoint.engine import Engine
from checkpoint.images.pb import Messages
from checkpoint.images.store import Store
from checkpoint.inbound import Inbound
from checkpoint.kernel import Kernel
from checkpoint.memory.ways import Giving, Taking
from checkpoint.outbound import Outbound
from checkpoint.processes import tree
from checkpoint.processes.workloads import Workloads, check_name
from checkpoint.sockets.adopt import Adoption
from checkpoint.statefile import StateFile
from checkpoint.surroundings import Surroundings
from checkpoint.waiting import readable

_LOG = logging.getLogger(__name__)

_HELPER_SECONDS = 120.0
"""How long a new agent waits for the CRIU of the old one: a dump of tens of gigabytes. It cannot be cut short: a killed
CRIU leaves its own code in the tasks it was looking into."""


class Custodian:
    """Owner of all of it."""

    def __init__(
        self, kernel: Kernel, engine: Engine, messages: Messages, store: Store, directory: Path, adopt_path: str,
        pid_base: int, here: Machine, layer: Path | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.workloads = Workloads(kernel, directory, pid_base)
        self._kernel = kernel
        self._file = StateFile(directory / "agent" / "state.json")
        self._around = Surroundings(
            kernel, engine, messages, store, adopt_path, self._save, self._spawn, self.workloads.forget,
            directory / "agent", layer, here,
        )  # fmt: skip
        self._outbound: dict[str, Outbound] = {}
        self._inbound: dict[str, Inbound] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- workloads

    async def run(self, wanted: RunWorkload) -> Workload:
        record = await self.workloads.run(wanted)
        self._save()
        return self.view(record)

    async def kill(self, name: str) -> Workload:
        if holder := self.holder(name):
            raise AgentError(Code.ALREADY_MIGRATING, f"the workload {name!r} is in the hands of migration {holder}")
        view = await self.workloads.kill(name)
        self._save()
        return view

    def view(self, record: WorkloadRecord) -> Workload:
        return self.workloads.view(record, self.holder(record.name))

    @property
    def own_root(self) -> bool:
        """Whether the pod has one."""
        return self._around.layer is not None

    def belongings(self, record: WorkloadRecord, pids: list[int], named: list[str]) -> tuple[Belongings, list[Problem]]:
        """What of files belongs to a workload, with what is named besides. Blocks. Raises AgentError NO_FOLDER."""
        came_with = came(self._around.folder, record.name, record.arrived_by)
        outgoing = Outgoing(self.store.root, self._around.layer, named, came_with)
        return belongings.look(pids, outgoing, own_root=self.own_root)

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
        self._save()

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
        ), wanted.image_key, allow_loss=wanted.allow_loss, files=wanted.files,
            arrived=came(self._around.folder, record.name, record.arrived_by))  # fmt: skip
        self._outbound[migration] = one
        try:
            custody = await one.prepare()
        except BaseException:
            del self._outbound[migration]
            raise
        self._file.tidy(self._journal())
        self._save()
        return custody

    async def prepare_inbound(self, migration: str, wanted: PrepareInbound, purpose: Purpose = "move") -> Custody:
        check_name(migration)
        check_name(wanted.workload)
        if (known := self._inbound.get(migration)) is not None:
            return _same(known, known.same_as(wanted))
        self.workloads.require_free(wanted.workload)
        record = MigrationRecord(
            migration, wanted.workload, "destination", State.WAITING, argv=wanted.argv, memory=wanted.memory,
            purpose=purpose,
        )  # fmt: skip
        one = Inbound(self._around, self.workloads, record, wanted.image_key, wanted.files)
        self._inbound[migration] = one
        try:
            custody = await one.prepare()
        except BaseException:
            del self._inbound[migration]
            raise
        self._save()
        return custody

    async def forget_outbound(self, migration: str) -> Custody:
        custody = await self.outbound(migration).forget()
        self._outbound.pop(migration, None)
        self._save()
        return custody

    async def forget_inbound(self, migration: str) -> Custody:
        custody = await self.inbound(migration).forget()
        self._inbound.pop(migration, None)
        self._save()
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
        self._save()

    async def _recover(self, record: MigrationRecord) -> None:
        await self._await_helper(record)
        if record.side == "source":
            await self._recover_source(record)
        else:
            await self._recover_destination(record)

    async def _drop(self, record: MigrationRecord) -> None:
        """A checkpoint or a copy that this agent's predecessor was killed over: nobody asks for it again."""
        if record.side == "source":
            await self.forget_outbound(record.migration)
        else:
            await self.forget_inbound(record.migration)

    async def _recover_source(self, record: MigrationRecord) -> None:
        giving = Giving.find(self._kernel, record.pager)
        if record.state in HOLDING | {State.PREPARED}:
            if giving is not None:
                await giving.close()
            if record.state in HOLDING:
                await self._tell_proxy(record)
                self._let_go(record)
            record.reason = "the agent was started anew"
            record.state = State.RELEASED
        elif record.state in (State.COMMITTING, State.GIVING):
            # The commit was on record: the destination may believe in it. Forward is the only way.
            record.state = State.COMMITTED if giving is None else State.GIVING
            if giving is None:
                tree.kill(self._kernel, self._members(record))
            self.workloads.forget(record.workload)
        _LOG.info("migration %s: now %s", record.migration, record.state.value)
        one = Outbound(self._around, record)
        if giving is not None and record.state is State.GIVING:
            one.go_on_giving(giving, self._members(record))
        self._outbound[record.migration] = one

    async def _tell_proxy(self, record: MigrationRecord) -> None:
        """The proxy holds on when an agent dies, and lets go when the next one asks, if it holds anything at all."""
        with suppress(AgentError):
            adoption = Adoption(self._around.adopt_path, record.migration, lambda: None)
            try:
                await adoption.release()
            finally:
                adoption.close()

    def _let_go(self, record: MigrationRecord) -> None:
        held = self._members(record)
        if not held.members and record.root is not None:
            # Killed between the record and the signals: whoever stands still in the tree, we have stopped.
            held = tree.hold_all(self._kernel, tree.descendants(record.root.pid))
        held.stopped_before = set(record.stopped_before)
        self._around.engine.release(held, {}, {})
        held.close()

    async def _recover_destination(self, record: MigrationRecord) -> None:
        one = Inbound(self._around, self.workloads, record)
        if record.state is State.RESTORING:
            held = tree.hold_all(self._kernel, record.pids)
            tree.kill(self._kernel, held)
            await tree.until_gone(held, _HELPER_SECONDS)
            held.close()
            await self._end_taker(record)
            await one.take_files_back()
            record.state, record.reason = State.DISCARDED, "the agent was started anew"
            one = Inbound(self._around, self.workloads, record)
        elif record.state is State.RESTORED:
            one.take_up()
        elif record.state in (State.RESUMED, State.TAKING):
            if record.state is State.TAKING:
                one.go_on_taking()
            held = self._members(record)
            held.stopped_before = set(record.stopped_before)
            tree.resume(self._kernel, held)
            one.keep_files()
            held.close()
        elif record.state is State.WAITING:
            # The images' key died with the agent that had it.
            await self._end_taker(record)
            await one.take_files_back()
            record.state, record.reason = State.DISCARDED, "the agent was started anew"
            one = Inbound(self._around, self.workloads, record)
        self._inbound[record.migration] = one

    async def _end_taker(self, record: MigrationRecord) -> None:
        work = self.store.folders(f"{record.migration}.in").work
        await Taking.find(self._kernel, record.pager, work).close()

    def _members(self, record: MigrationRecord) -> tree.Tree:
        alive = [one.pid for one in record.members if tree.is_alive(one.pid, one.start_time)]
        return tree.hold_all(self._kernel, alive)

    async def _await_helper(self, record: MigrationRecord) -> None:
        """Wait for the end of a CRIU that outlived its agent: until then the tree is in its hands."""
        one = record.helper
        record.helper = None
        if one is None or not tree.is_alive(one.pid, one.start_time):
            return
        held = tree.hold(self._kernel, one.pid)
        if held is None:
            return
        try:
            async with asyncio.timeout(_HELPER_SECONDS):
                await readable(held.pidfd)
        except TimeoutError:
            _LOG.error("CRIU (process %d) does not end: killing it", one.pid)
            tree.send(self._kernel, held, signal.SIGKILL)
        finally:
            tree.Tree([held]).close()

    async def close(self) -> None:
        """Shut down: what is held goes back, what is given up stays so, every task ends."""
        for one in self._both():
            await one.close()
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
