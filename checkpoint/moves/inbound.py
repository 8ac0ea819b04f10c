"""One migration at its destination: restored stopped, verified, and resumed only when the source has given it up."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from checkpoint.api import (
    NO_FILES,
    Beacon,
    Changes,
    Connections,
    Custody,
    EarlyMemory,
    FetchImages,
    Files,
    Memory,
    Packed,
    Paired,
    PrepareInbound,
    ReceiveImages,
    Receiving,
    Reserved,
    ReserveRoom,
    Restored,
    RestoreWorkload,
    Sight,
)
from checkpoint.baggage.incoming import Incoming
from checkpoint.core.custody import FINAL, Event, State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord, WorkloadRecord
from checkpoint.engine import RestoreReport
from checkpoint.images import store
from checkpoint.images.folder import Images
from checkpoint.moves.arrival import Arrival
from checkpoint.moves.filling import Filling
from checkpoint.moves.restoring import Restoring
from checkpoint.moves.side import Side
from checkpoint.moves.surroundings import STOPPED_BEFORE, Surroundings
from checkpoint.processes import locks, tree
from checkpoint.processes.locks import MappedLock
from checkpoint.processes.workloads import Workloads

_LOG = logging.getLogger(__name__)


class Inbound(Side):
    """A migration on the way in."""

    def __init__(
        self, around: Surroundings, workloads: Workloads, record: MigrationRecord, image_key: str = "",
        files: Files = NO_FILES,
    ) -> None:  # fmt: skip
        """`image_key` is "" for a migration that an agent before this one prepared: it restores no more."""
        super().__init__(around, record, image_key)
        self._workloads = workloads
        self._work_name = f"{record.migration}.in"
        self._folders = around.store.folders(self._work_name)
        self._restored: Restored | None = None
        self._incoming = Incoming(
            around.folder, around.layer, record.migration, record.workload, replace_newer=files.replace_newer
        )
        self._arrival = Arrival(
            record.migration, self._folders.images, around.store.beside(self._work_name), around.here, around.kernel
        )
        self._restoring = Restoring(around, record.migration, self._folders.work, self._incoming, self._timed)
        self._filling = Filling(around, record)

    def same_as(self, wanted: PrepareInbound) -> bool:
        ours = (self.record.workload, self.record.argv, self._image_key or wanted.image_key, self.record.memory)
        return ours == (wanted.workload, wanted.argv, wanted.image_key, wanted.memory)

    async def prepare(self) -> Custody:
        """What fails leaves nothing."""
        async with self._lock:  # whoever forgets it meanwhile finds all of it, or nothing
            try:
                self._around.store.make(self._work_name)
                await self._restoring.prepare()
                if self.record.memory == "post-copy":
                    await self._filling.prepare(self._key, self._folders.work)
            except BaseException:
                await self._restoring.close()
                await self._filling.close()
                self._around.store.remove(self._work_name)
                raise
            return self.custody()

    def memory(self) -> Memory:
        """How it stands with the memory."""
        return self._filling.memory(self._machine.state, self._machine.reason)

    def take_up(self) -> None:
        """After the agent's restart: hold the restored processes again; the controller decides about them."""
        self._filling.find(self._folders.work)
        held = tree.hold_known(self._around.kernel, self.record.members)
        held.stopped_before = set(self.record.stopped_before)
        self._tree = held

    def go_on_taking(self) -> None:
        """After the agent's restart, where the workload runs and its memory still comes."""
        self._filling.find(self._folders.work)
        self._filling.begin(self._filled)

    def look(self, wanted: Beacon) -> Sight:
        """Whether the source's folder is seen here."""
        return Sight(store.sees(wanted))

    async def receive(self, wanted: ReceiveImages) -> Receiving:
        """Listen for the images, or for the workload's files."""
        async with self._lock:
            self._check(Event.RESTORE)
            if wanted.memory:
                await self._filling.prepare(self._key, self._folders.work)
                self._around.save()
            return self._arrival.listen(self._key, wanted)

    async def reserve(self, wanted: ReserveRoom) -> Reserved:
        """Have room for the images taken before they come; how far that is."""
        async with self._lock:
            self._check(Event.RESTORE)
            return self._arrival.reserve(wanted)

    async def try_archive(self, wanted: FetchImages) -> Custody:
        """Find out whether the images could be fetched from where the source will store them."""
        async with self._lock:
            self._check(Event.RESTORE)
            await self._arrival.try_archive(wanted)
            return self.custody()

    async def early(self, wanted: EarlyMemory) -> Memory:
        """Take what of the memory is sent while the workload runs at the source; how far that is."""
        async with self._lock:
            self._check(Event.RESTORE)
            return self._filling.take_early(wanted)

    async def pair(self, wanted: Connections) -> Paired:
        """Make the copy's ends of these connections before the freeze; which of them are there."""
        async with self._lock:
            self._check(Event.RESTORE)
            with self._timed("pair"):
                return await self._restoring.pair(wanted)

    async def adjust(self, wanted: Changes) -> Custody:
        """What the workload has changed of those connections since. Raises AgentError for what cannot be set here."""
        async with self._lock:
            self._check(Event.RESUME if not self._filling.later else Event.RUN)
            self._restoring.adjust(wanted.changes)
            return self.custody()

    async def _folder(self, wanted: RestoreWorkload) -> Path:
        if wanted.stored is None:
            return await self._arrival.folder(wanted)
        with self._timed("fetch"):
            return await self._arrival.folder(wanted)

    async def stage(self, wanted: Packed) -> Custody:
        """Unpack what the source packed before the freeze."""
        async with self._lock:
            self._check(Event.RESTORE)
            if wanted.folder:
                with self._timed("stage"):
                    folder = await self._arrival.files(wanted)
                    await asyncio.to_thread(self._incoming.stage, folder, wanted.digest)
                    await self._arrival.clear()
            return self.custody()

    async def take_files_back(self) -> None:
        """Leave the pod's files as they were before this migration: for one that is over, or never began.

        What cannot be put back keeps nothing else from going back; it stays where it was put aside.
        """
        try:
            await asyncio.to_thread(self._incoming.undo)
        except OSError as error:
            _LOG.error("%s: not all files are as they were: %s", self.record.migration, error)

    async def restore(self, wanted: RestoreWorkload) -> Restored:
        async with self._lock:
            if self._restored is None:
                self._check(Event.RESTORE)
                with self._timed("restore"):
                    self._restored = await self._restore(wanted)
            return self._restored

    async def _restore(self, wanted: RestoreWorkload) -> Restored:
        folder = await self._folder(wanted)
        sealed = store.read(folder, wanted.manifest_digest)
        self.record.pids = [one.pid for one in Images(folder, self._around.messages).processes()]
        tree.require_free(self.record.pids)
        self._around.require_free(self.record.workload)
        # On record first: a new agent must know which processes are a partial copy, and none of them is another's.
        self._decide(Event.RESTORE)
        try:
            self._filling.want(wanted.memory, folder)
            report = await self._restoring.restore(folder, sealed, self._key, lazily=self._filling.lazily)
            try:
                images = Images(folder, self._around.messages)
                locks.take(self._around.kernel, images.ours(locks.FILE, list[MappedLock], []))
                with self._timed("memory"):
                    await self._filling.secure()
                self._keep(report, folder)
            except BaseException:  # as where whoever fetches its memory has ended
                self._tree = None
                await self._restoring.discard(report.tree)
                raise
        except BaseException as error:
            await self.take_files_back()
            self._apply(Event.DISCARD, reason=str(error))
            self._around.note()
            raise
        left = self._restoring.not_carried
        return Restored(report.pid, len(report.tree.members), sealed.image_bytes, report.criu_seconds, left)

    def _keep(self, report: RestoreReport, folder: Path) -> None:
        self._tree = report.tree
        self._tree.stopped_before = set(msgspec.json.decode((folder / STOPPED_BEFORE).read_bytes(), type=list[int]))
        self.record.members = [Identity(one.pid, one.start_time) for one in report.tree.members]
        self.record.stopped_before = sorted(self._tree.stopped_before)
        self._decide(Event.VERIFY)

    async def resume(self) -> Custody:
        async with self._lock:
            event = Event.RESUME if not self._filling.later else Event.RUN
            if not self._machine.done(event):
                self._check(event)
                with self._timed("resume"):
                    self._resume()
            return self.custody()

    def _resume(self) -> None:
        held = self._required_tree()
        one = self.record
        workload = WorkloadRecord(one.workload, one.members[0], one.argv, one.migration, one.cpu_features)
        self._workloads.adopt(workload)
        # On record first: an agent that dies before the signal sends it after its restart.
        try:
            self._decide(Event.RESUME if not self._filling.later else Event.RUN)
        except OSError:
            self._workloads.forget(one.workload)
            raise
        self._around.engine.resume(held)
        self._restoring.give_away()
        self.keep_files()
        held.close()
        self._tree = None
        self._filling.begin(self._filled)
        if one.purpose == "move":
            self._around.arrived(workload)

    def keep_files(self) -> None:
        """It runs: what its files have replaced is gone."""
        self._around.spawn(asyncio.to_thread(self._incoming.keep), "keep the files")

    async def _filled(self, found: Memory) -> None:
        """The last page is there. Where it cannot come the workload is ended before it could read a wrong one."""
        if found.state == "complete":
            self._apply(Event.FILLED)
            return
        root = self.record.members[0]
        alive = tree.kin(root.pid) if tree.is_alive(root.pid, root.start_time) else []
        await self._restoring.destroy(tree.hold_all(self._around.kernel, alive))
        _LOG.error("%s: the workload's memory is lost: %s", self.record.migration, found.reason)
        self._apply(Event.LOSE, reason=found.reason)

    async def forget(self) -> Custody:
        """Before the resume: kill the stopped copy, or break off its making. After it: only forget."""
        self._arrival.stop()
        self._restoring.abort()
        self._filling.abort()
        async with self._lock:
            if self._machine.state is State.TAKING:
                raise AgentError(Code.WRONG_STATE, "the workload's memory is still on its way")
            if self._machine.state not in FINAL:
                if self._tree is not None:
                    await self._restoring.discard(self._tree)
                    self._tree = None
                await self.take_files_back()
                self._apply(Event.DISCARD, reason="the controller asked for it")
                self._around.note()
            await self._restoring.close()
            await self._filling.close()
            await self._arrival.close()
            self._around.store.remove(self._work_name)
            return self.custody()

    async def close(self) -> None:
        """The agent ends: a restored copy stays as it is, stopped; the next agent finds it on record."""
        await self._arrival.close()
        await self._restoring.close()
        if self._tree is not None:
            self._tree.close()
        if self._machine.state is State.WAITING:
            await self._filling.close()
