"""One migration at its destination: restored stopped, verified, and resumed only when the source has given it up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from checkpoint.api import (
    NO_FILES,
    Beacon,
    Custody,
    Files,
    Memory,
    Packed,
    PrepareInbound,
    ReceiveImages,
    Restored,
    RestoreWorkload,
    Sight,
)
from checkpoint.api import Receiving as ReceivingAnswer
from checkpoint.baggage.incoming import Incoming
from checkpoint.baggage.outgoing import LIST, is_baggage
from checkpoint.core import manifest
from checkpoint.core.custody import FINAL, Event, Machine, State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord, WorkloadRecord
from checkpoint.core.manifest import Manifest
from checkpoint.core.sockopts import SocketOptions
from checkpoint.engine import Folders, Helper, RestoreReport
from checkpoint.images import store
from checkpoint.images.folder import Images
from checkpoint.memory.ways import Taking
from checkpoint.processes import tree
from checkpoint.processes.tree import Tree
from checkpoint.processes.workloads import Workloads
from checkpoint.sockets import sockopts
from checkpoint.surroundings import STOPPED_BEFORE, Surroundings
from checkpoint.transfer.receiving import Receiving
from checkpoint.transfer.storing import Fetching

_GONE_SECONDS = 10.0

_LOG = logging.getLogger(__name__)


class Inbound:
    """A migration on the way in."""

    def __init__(
        self, around: Surroundings, workloads: Workloads, record: MigrationRecord, image_key: str = "",
        files: Files = NO_FILES,
    ) -> None:  # fmt: skip
        """`image_key` is "" for a migration that an agent before this one prepared: it restores no more."""
        self.record = record
        self._around = around
        self._workloads = workloads
        self._lock = asyncio.Lock()
        self._machine = Machine(record.state)
        self._machine.reason = record.reason
        self._seconds: dict[str, float] = {}
        self._helper: Helper | None = None
        self._working: Helper | None = None
        self._tree: Tree | None = None
        self._restored: Restored | None = None
        self._image_key = image_key
        self._incoming = Incoming(
            around.folder, around.layer, record.migration, record.workload, replace_newer=files.replace_newer
        )
        self._taking: Taking | None = None
        """With post-copy: whoever fetches the memory."""
        self._fetching = Fetching()
        self._receiving: Receiving | None = None
        """Where the images come from an agent whose folder this one does not see."""

    def custody(self) -> Custody:
        one = self.record
        state, reason = self._machine.state, self._machine.reason
        return Custody(one.migration, one.workload, "destination", state.value, reason, dict(self._seconds))

    @property
    def state(self) -> State:
        return self._machine.state

    def same_as(self, wanted: PrepareInbound) -> bool:
        ours = (self.record.workload, self.record.argv, self._image_key or wanted.image_key, self.record.memory)
        return ours == (wanted.workload, wanted.argv, wanted.image_key, wanted.memory)

    async def prepare(self) -> Custody:
        folders = self._around.store.make(self._work_name)
        self._helper = await self._around.engine.prepare()
        if self.record.memory == "post-copy":
            key = bytes.fromhex(self._image_key)
            self._taking = await Taking.start(self._around.kernel, key, folders.work)
            self.record.pager = self._taking.identity
        return self.custody()

    def memory(self) -> Memory:
        """How it stands with the memory; complete from the beginning where it came with the images."""
        if self._taking is None:
            return Memory("complete")
        found = self._taking.memory()
        if self._machine.state is State.LOST:
            return msgspec.structs.replace(found, state="lost", reason=self._machine.reason)
        # What the taker has finished is said once the workload depends on it no more.
        pending = found.state == "complete" and self._machine.state is State.TAKING
        return msgspec.structs.replace(found, state="fetching") if pending else found

    def take_up(self) -> None:
        """After the agent's restart: hold the restored processes again; the controller decides about them."""
        self._find_taking()
        held = tree.hold_all(self._around.kernel, [one.pid for one in self.record.members])
        held.stopped_before = set(self.record.stopped_before)
        self._tree = held

    def go_on_taking(self) -> None:
        """After the agent's restart, where the workload runs and its memory still comes."""
        taking = self._find_taking()
        assert taking is not None
        self._watch(taking)

    def _find_taking(self) -> Taking | None:
        if self.record.memory == "post-copy":
            work = self._around.store.folders(self._work_name).work
            self._taking = Taking.find(self._around.kernel, self.record.pager, work)
            with suppress(AgentError):  # it has ended: whoever watches it hears of it at once
                self._taking.hold()
        return self._taking

    def look(self, wanted: Beacon) -> Sight:
        """Whether the source's folder is seen here."""
        return Sight(store.sees(wanted))

    async def receive(self, wanted: ReceiveImages) -> ReceivingAnswer:
        """Listen for the images."""
        async with self._lock:
            if self._receiving is None:
                self._machine.check(Event.RESTORE, self._around.kernel.now())
                folder = self._around.store.folders(self._work_name).images
                self._receiving = Receiving(bytes.fromhex(self._image_key), wanted.host, folder)
            return ReceivingAnswer(self._receiving.port)

    async def _folder(self, wanted: RestoreWorkload) -> Path:
        """Where the images are; from now on nobody writes to it."""
        if wanted.images:
            return Path(wanted.images)
        own = self._around.store.folders(self._work_name).images
        if wanted.stored is not None:
            with self._timed("fetch"):
                await self._fetching.fetch(self.record.migration, wanted.stored, own, self._around.here)
            return own
        if self._receiving is None:
            raise AgentError(Code.WRONG_STATE, "no images were received")
        await self._receiving.close()
        return own

    async def stage(self, wanted: Packed) -> Custody:
        """Unpack what the source packed before the freeze."""
        async with self._lock:
            self._machine.check(Event.RESTORE, self._around.kernel.now())
            if wanted.folder:
                with self._timed("stage"):
                    await asyncio.to_thread(self._incoming.stage, Path(wanted.folder), wanted.digest)
            return self.custody()

    async def take_files_back(self) -> None:
        """Leave the pod's files as they were before this migration: for one that is over, or never began."""
        await asyncio.to_thread(self._incoming.undo)

    async def restore(self, wanted: RestoreWorkload) -> Restored:
        async with self._lock:
            if self._restored is None:
                self._machine.check(Event.RESTORE, self._around.kernel.now())
                with self._timed("restore"):
                    self._restored = await self._restore(wanted)
            return self._restored

    async def _restore(self, wanted: RestoreWorkload) -> Restored:
        folder = await self._folder(wanted)
        sealed = store.read(folder, wanted.manifest_digest)
        self.record.pids = [one.pid for one in Images(folder, self._around.messages).processes()]
        self._apply(Event.RESTORE)
        # On record first: a new agent must know which processes are a partial copy.
        self._around.save()
        try:
            if self._taking is not None and wanted.memory is not None:
                self._taking.want(wanted.memory, Images(folder, self._around.messages))
            return await self._restore_verified(folder, sealed)
        except BaseException as error:
            await self.take_files_back()
            self._apply(Event.DISCARD, reason=str(error))
            self._around.save()
            raise

    async def _restore_verified(self, folder: Path, sealed: Manifest) -> Restored:
        """The shape of the folder is checked before CRIU reads it, and every byte beside it: before the commit."""
        manifest.compare_sizes(sealed, store.listing(folder))
        looking = self._around.spawn(self._survey(folder), "look at the images")
        try:
            with self._timed("files"):
                await self._place_files(folder, sealed)
            report = await self._run_criu(folder)
        except AgentError:
            manifest.compare(sealed, await looking)  # damage explains whatever CRIU stumbled over
            raise
        try:
            manifest.compare(sealed, await looking)
        except BaseException:
            await self._destroy(report.tree)
            raise
        self._set_options(report.tree, folder)
        self._keep(report, folder)
        return Restored(report.pid, len(report.tree.members), sealed.image_bytes, report.criu_seconds)

    async def _place_files(self, folder: Path, sealed: Manifest) -> None:
        """Before CRIU opens them; and not one of them before it is known that they are what was sealed."""
        if LIST in sealed.files:
            ours = [name for name in sealed.files if is_baggage(name)]
            sizes = {name: one.size for name, one in sealed.files.items()}
            found = await self._around.store.prove(folder, bytes.fromhex(self._image_key), sizes, ours)
            manifest.compare(Manifest({name: sealed.files[name] for name in ours}), Manifest(found))
            await asyncio.to_thread(self._incoming.place, folder)

    async def _survey(self, folder: Path) -> Manifest:
        """What the images are while CRIU reads them; what that proves and what not: `checkpoint.images.store`."""
        with self._timed("verify"):
            return await self._around.store.survey(folder, bytes.fromhex(self._image_key))

    async def _run_criu(self, folder: Path) -> RestoreReport:
        helper = self._helper or await self._around.engine.prepare()
        self._helper, self._working = None, helper
        folders = Folders(folder, self._around.store.folders(self._work_name).work)
        try:
            with self._timed("criu"):
                return await self._around.engine.restore(helper, folders, lazily=self._taking is not None)
        finally:
            self._working = None

    def _set_options(self, copy: Tree, folder: Path) -> None:
        wanted = msgspec.json.decode((folder / sockopts.FILE).read_bytes(), type=list[SocketOptions])
        for words in sockopts.write(self._around.kernel, copy, wanted):
            _LOG.warning("%s: not carried over: %s", self.record.migration, words)

    def _keep(self, report: RestoreReport, folder: Path) -> None:
        if self._taking is not None:
            self._taking.hold()
        self._tree = report.tree
        self._tree.stopped_before = set(msgspec.json.decode((folder / STOPPED_BEFORE).read_bytes(), type=list[int]))
        self.record.members = [Identity(one.pid, one.start_time) for one in report.tree.members]
        self.record.stopped_before = sorted(self._tree.stopped_before)
        self._apply(Event.VERIFY)
        self._around.save()

    async def resume(self) -> Custody:
        async with self._lock:
            event = Event.RESUME if self._taking is None else Event.RUN
            if not self._machine.done(event):
                self._machine.check(event, self._around.kernel.now())
                with self._timed("resume"):
                    self._resume()
            return self.custody()

    def _resume(self) -> None:
        held = self._required_tree()
        self._apply(Event.RESUME if self._taking is None else Event.RUN)
        one = self.record
        self._workloads.adopt(WorkloadRecord(one.workload, one.members[0], one.argv, one.migration))
        # On record first: an agent that dies before the signal sends it after its restart.
        self._around.save()
        self._around.engine.resume(held)
        self.keep_files()
        held.close()
        self._tree = None
        if self._taking is not None:
            self._watch(self._taking)

    def keep_files(self) -> None:
        """It runs: what its files have replaced is gone."""
        self._around.spawn(asyncio.to_thread(self._incoming.keep), "keep the files")

    def _watch(self, taking: Taking) -> None:
        taking.begin()
        self._around.spawn(self._until_taken(taking), "the fetching of the memory")

    async def _until_taken(self, taking: Taking) -> None:
        """Until the last page is there. Where it cannot come the workload is ended before it could read a wrong one."""
        found = await taking.ended()
        if found.state == "complete":
            self._apply(Event.FILLED)
        else:
            alive = [pid for one in self.record.members[:1] for pid in tree.descendants(one.pid)]
            held = tree.hold_all(self._around.kernel, alive)
            await self._destroy(held)
            _LOG.error("%s: the workload's memory is lost: %s", self.record.migration, found.reason)
            self._apply(Event.LOSE, reason=found.reason)
        taking.let_go()
        self._around.save()

    async def forget(self) -> Custody:
        """Before the resume: kill the stopped copy, or break off its making. After it: only forget."""
        self._fetching.stop()
        if self._working is not None:
            self._working.abort()
        async with self._lock:
            if self._machine.state is State.TAKING:
                raise AgentError(Code.WRONG_STATE, "the workload's memory is still on its way")
            if self._machine.state not in FINAL:
                if self._tree is not None:
                    await self._destroy(self._tree)
                    self._tree = None
                await self.take_files_back()
                self._apply(Event.DISCARD, reason="the controller asked for it")
                self._around.save()
            if self._helper is not None:
                await self._helper.close()
                self._helper = None
            if self._taking is not None:
                await self._taking.close()
            if self._receiving is not None:
                await self._receiving.close()
            self._around.store.remove(self._work_name)
            return self.custody()

    async def close(self) -> None:
        """The agent ends: a restored copy stays as it is, stopped; the next agent finds it on record."""
        if self._receiving is not None:
            await self._receiving.close()
        if self._helper is not None:
            await self._helper.close()
        if self._tree is not None:
            self._tree.close()
        if self._taking is not None and self._machine.state is State.WAITING:
            await self._taking.close()

    async def _destroy(self, held: Tree) -> None:
        self._around.engine.kill(held)
        await tree.until_gone(held, _GONE_SECONDS)
        held.close()

    def _apply(self, event: Event, *, reason: str = "") -> None:
        self._machine.apply(event, self._around.kernel.now(), reason=reason)
        self.record.state, self.record.reason = self._machine.state, self._machine.reason

    def _required_tree(self) -> Tree:
        assert self._tree is not None
        return self._tree

    @property
    def _work_name(self) -> str:
        return f"{self.record.migration}.in"

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = self._around.kernel.now()
        try:
            yield
        finally:
            self._seconds[name] = round(self._around.kernel.now() - began, 6)
