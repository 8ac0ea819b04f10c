"""One migration at its source: from the stop to the commit, or back.

Each step is locked against the others, timed, and remembered: said again it is answered again. What fails leaves the
state as it was; only `release`, the lease and the proxy's death lead back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from checkpoint.api import (
    NO_FILES,
    Adopted,
    Beacon,
    Custody,
    Dumped,
    Files,
    Packed,
    PrepareOutbound,
    Sealed,
    SendImages,
    StoreImages,
    TransferReport,
)
from checkpoint.baggage.outgoing import Outgoing
from checkpoint.core import stored
from checkpoint.core.baggage import Listing
from checkpoint.core.custody import Event, Machine, State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord
from checkpoint.core.stored import Manifest
from checkpoint.engine import DumpReport, Folders, Helper
from checkpoint.images import store
from checkpoint.memory.ways import Giving
from checkpoint.processes.tree import Tree, stat, until_gone
from checkpoint.snapshot import Snapshot
from checkpoint.sockets.adopt import Adoption
from checkpoint.surroundings import Surroundings
from checkpoint.transfer.sending import Sending
from checkpoint.transfer.storing import Storing

_LOG = logging.getLogger(__name__)

DUMP_TRIES = 3
"""The queues of a stopped workload fill up, and then stand still: so a later try is better off than the first."""

_GONE_SECONDS = 60.0
"""A killed process with much memory takes the kernel a while to take down; nobody waits for it that long."""
_BURIAL_SECONDS = 5.0


class Outbound:
    """A migration on the way out."""

    def __init__(
        self, around: Surroundings, record: MigrationRecord, image_key: str = "", *, allow_loss: bool = False,
        files: Files = NO_FILES, arrived: Sequence[Listing] = (),
    ) -> None:  # fmt: skip
        """`image_key` is "" for a migration that an agent before this one prepared: it is over, or goes back."""
        self.record = record
        self._around = around
        self._lock = asyncio.Lock()
        self._machine = Machine(record.state, max_hold_seconds=record.max_hold_seconds)
        self._machine.reason = record.reason
        self._seconds: dict[str, float] = {}
        self._helper: Helper | None = None
        self._tree: Tree | None = None
        self._adoption: Adoption | None = None
        self._image_key = image_key
        self._allow_loss = allow_loss
        self._files = files
        self._outgoing = Outgoing(around.store.beside(record.migration), around.layer, files.named, arrived)
        self._snapshot = Snapshot(around, self._folders(), self._key)
        self._lease: asyncio.TimerHandle | None = None
        self._burial: asyncio.Task[None] | None = None
        self._answers: dict[Event, Any] = {}
        self._giving: Giving | None = None
        """With post-copy: whoever gives the memory."""
        self._beacon: Beacon | None = None
        self._sending: Sending | Storing | None = None
        """Where the images go to an agent that does not see their folder."""

    def custody(self) -> Custody:
        one = self.record
        state, reason = self._machine.state, self._machine.reason
        port = 0 if self._giving is None else self._giving.port
        return Custody(
            one.migration, one.workload, "source", state.value, reason, dict(self._seconds), port, self._beacon
        )

    @property
    def state(self) -> State:
        return self._machine.state

    def same_as(self, wanted: PrepareOutbound) -> bool:
        one = self.record
        key = self._image_key or wanted.image_key
        ours = (one.workload, one.readdress, one.max_hold_seconds, key, one.memory)
        theirs = (wanted.workload, wanted.readdress, wanted.max_hold_seconds, wanted.image_key, wanted.memory)
        return ours == theirs

    async def prepare(self) -> Custody:
        """Start CRIU and make the folder, so that the freeze pays for neither."""
        self._around.store.make(self.record.migration)
        self._beacon = self._around.store.mark(self.record.migration)
        if self._lazily:
            host = next(iter(self.record.readdress))
            self._giving = await Giving.start(self._around.kernel, self._key, host)
            self.record.pager = self._giving.identity
        self._helper = await self._prepare_engine()
        return self.custody()

    async def _prepare_engine(self) -> Helper:
        root = self.record.root
        helper = await self._around.engine.prepare(None if root is None else root.pid, lazily=self._lazily)
        try:
            if self._giving is not None and (listener := await helper.questions()) is not None:
                await self._giving.spare(listener)
        except BaseException:
            await helper.close()
            raise
        return helper

    async def send(self, wanted: SendImages) -> Custody:
        """Connect to the agent that the images go to, before the freeze."""
        async with self._lock:
            if self._sending is None:
                self._machine.check(Event.STOP, self._around.kernel.now())
                kernel, folder = self._around.kernel, self._folders().images
                self._sending = await Sending.open(kernel, self._key, folder, wanted)
            return self.custody()

    async def pack(self) -> Packed:
        """Pack the workload's files, while it runs: inside the freeze it is only what has changed since."""
        async with self._lock:
            self._machine.check(Event.STOP, self._around.kernel.now())
            with self._timed("pack"):
                return await asyncio.to_thread(self._outgoing.first) if self._outgoing else Packed("")

    async def store(self, wanted: StoreImages) -> Custody:
        """Have the images go into an archive, once they are sealed."""
        async with self._lock:
            if self._sending is None:
                self._machine.check(Event.STOP, self._around.kernel.now())
                self._sending = Storing(self._folders().images, wanted, self._draft)
            return self.custody()

    def _draft(self) -> Manifest:
        one = self.record
        return Manifest(
            stored.VERSION, one.migration, one.workload, one.argv, time.time(), self._around.here, "", [],
            one.readdress, "", len(one.members), [], [], [],
        )  # fmt: skip

    async def stop(self) -> Custody:
        async with self._lock:
            if not self._machine.done(Event.STOP):
                with self._timed("stop"):
                    await self._stop()
            return self.custody()

    async def _stop(self) -> None:
        self._apply(Event.STOP)
        # On record first: an agent that dies right after the signal must know that it has to take it back.
        self._around.save()
        root = self.record.root
        assert root is not None
        try:
            self._tree = await self._around.engine.stop(root.pid)
        except AgentError as error:
            await self._release(f"{error.problem.message}")
            raise
        self.record.members = [Identity(one.pid, one.start_time) for one in self._tree.members]
        self.record.stopped_before = sorted(self._tree.stopped_before)
        self._arm()

    async def dump(self) -> Dumped:
        answer: Dumped = await self._once(Event.DUMP, "dump", self._dump)
        return answer

    async def _dump(self) -> Dumped:
        folders = self._folders()
        # Beside the dump, for nothing: CRIU has a process of its own, and the tree stands still.
        if self._allow_loss:
            await asyncio.to_thread(self._snapshot.give_up, self._required_tree())
        looking = self._around.spawn(
            asyncio.to_thread(self._snapshot.look, self._required_tree()), "look at the sockets"
        )
        packing = self._around.spawn(asyncio.to_thread(self._outgoing.second), "pack the files")
        try:
            report = await self._dump_patiently(folders)
        finally:
            options, _ = await asyncio.gather(looking, packing)
        if self._sending is not None:
            self._sending.check()
        self._outgoing.hand_over(folders.images)
        if self._giving is not None:
            await self._giving.write_map(folders.images)
        self._snapshot.keep(options, self.record.stopped_before)
        return Dumped(sum(self._snapshot.dumped.values()), report.processes, report.criu_seconds)

    async def _dump_patiently(self, folders: Folders) -> DumpReport:
        """Once more, from the start, where a peer's bytes came between CRIU's two looks at their queue."""
        for _ in range(DUMP_TRIES - 1):
            try:
                return await self._dump_once(folders)
            except AgentError as error:
                if error.code is not Code.QUEUE_MOVED:
                    raise
                _LOG.info("%s: %s: dumping once more", self.record.migration, error)
                if self._sending is not None:
                    self._sending.restart()
                self._around.store.make(self.record.migration)
        return await self._dump_once(folders)

    async def _dump_once(self, folders: Folders) -> DumpReport:
        helper = self._helper or await self._prepare_engine()
        self._helper = None
        if self._giving is not None:
            await self._giving.open(self._required_tree().pids)
        if self._sending is not None:
            self._sending.watch()
        seen = stat(helper.pid)
        self.record.helper = None if seen is None else Identity(helper.pid, seen.start_time)
        self._around.save()
        try:
            return await self._around.engine.dump(
                helper,
                self._required_tree(),
                folders,
                ghost_limit_bytes=self._files.ghost_limit_bytes,
                lazily=self._lazily,
            )
        finally:
            self.record.helper = None
            self._around.spawn(helper.close(), "criu's end")

    async def adopt(self) -> Adopted:
        answer: Adopted = await self._once(Event.ADOPT, "adopt", self._adopt)
        return answer

    async def _adopt(self) -> Adopted:
        legs: list[msgspec.Raw] = []
        if self._snapshot.sort():
            self._adoption = Adoption(self._around.adopt_path, self.record.migration, self._proxy_lost)
            legs = await self._snapshot.adopt(self._adoption)
        self._snapshot.close_sockets()
        found = self._snapshot.sorted
        return Adopted(len(found.flows), len(found.listeners), msgspec.Raw(b"[" + b",".join(map(bytes, legs)) + b"]"))

    async def seal(self) -> Sealed:
        answer: Sealed = await self._once(Event.SEAL, "seal", self._seal)
        return answer

    async def _seal(self) -> Sealed:
        found, digest = await self._snapshot.seal(self.record.readdress)
        folder = self._folders().images
        if self._sending is None:
            return Sealed(str(folder), digest, found.image_bytes, TransferReport("shared", found.image_bytes))
        report = await self._sending.finish(store.everything(folder))
        return Sealed("", digest, found.image_bytes, report)

    async def commit(self) -> Custody:
        async with self._lock:
            if not self._machine.done(Event.COMMIT):
                with self._timed("commit"):
                    await self._commit()
            return self.custody()

    async def _commit(self) -> None:
        """Give the workload up. The instant of `kill` is the one after which it is the destination's."""
        self._machine.check(Event.COMMIT, self._around.kernel.now())
        if self._giving is not None:
            await self._giving.commit()  # first of all: from here on it needs no agent
        self._apply(Event.COMMIT)
        self._around.save()
        tree = self._required_tree()
        self._tree = None
        if self._giving is None:
            self._kill(tree)
            self._burial = self._around.spawn(self._bury(tree), "the source's end")
        else:
            self._apply(Event.YIELD)
            self._burial = self._around.spawn(self._give(self._giving, tree), "the giving of the memory")
        self._around.given_up(self.record.workload)
        self._disarm()

    def _kill(self, tree: Tree) -> None:
        self._around.engine.kill(tree)
        self._apply(Event.KILLED)

    async def _give(self, giving: Giving, tree: Tree) -> None:
        """Post-copy: the source stands still, and never runs again, until its memory is given or nobody wants it."""
        self._around.save()
        if not await giving.ended():
            _LOG.warning("%s: the destination did not say that it has all the memory", self.record.migration)
        self._kill(tree)
        await self._bury(tree)

    def go_on_giving(self, giving: Giving, tree: Tree) -> None:
        """After the agent's restart."""
        self._giving = giving
        self._burial = self._around.spawn(self._give(giving, tree), "the giving of the memory")

    async def _bury(self, tree: Tree) -> None:
        await until_gone(tree, _GONE_SECONDS)
        tree.close()
        self._close_adoption()
        self._around.save()

    async def release(self, reason: str = "", *, expired: bool = False) -> Custody:
        """Let the workload go on where it was."""
        if self._sending is not None:  # whoever holds the lock may be waiting for it
            code = Code.LEASE_EXPIRED if expired else Code.TRANSFER_BROKEN
            self._sending.stop(AgentError(code, f"the images had not arrived: {reason or 'it was taken back'}"))
        async with self._lock:
            if not self._machine.done(Event.RELEASE):
                self._machine.check(Event.RELEASE, self._around.kernel.now())
                with self._timed("release"):
                    await self._release(reason or "the controller asked for it", expired=expired)
            return self.custody()

    async def _release(self, reason: str, *, expired: bool = False) -> None:
        self._disarm()
        if self._giving is not None:
            await self._giving.close()
            self._giving = None
        if self._adoption is not None:
            # A proxy that is dead or deaf has let go already, or its legs are mended below.
            with suppress(AgentError):
                await self._adoption.release()
        self._close_adoption()
        self._snapshot.close()
        if self._tree is not None:
            self._around.engine.release(self._tree, self._snapshot.reuse_address(), self._snapshot.backlogs())
            self._tree.close()
            self._tree = None
        self._apply(Event.RELEASE, reason=reason, expired=expired)
        self._around.save()
        if self._helper is not None:
            await self._helper.close()
            self._helper = None
        await self._close_sending()

    async def _close_sending(self) -> None:
        if self._sending is not None:
            await self._sending.close()
            self._sending = None

    async def forget(self) -> Custody:
        """Delete the images; raises AgentError WRONG_STATE while the workload stands still.

        A killed copy has ended by then, as a rule: its process ids are free for its return.
        """
        if self._burial is not None:
            await asyncio.wait({self._burial}, timeout=_BURIAL_SECONDS)
        if self._machine.state is State.PREPARED:
            await self.release()
        async with self._lock:
            if self._machine.state not in (State.RELEASED, State.COMMITTED):
                raise AgentError(Code.WRONG_STATE, f"release it first: the migration is {self.state.value}")
            self._outgoing.close()
            self._around.store.remove(self.record.migration)
            await self._close_sending()
            return self.custody()

    async def close(self) -> None:
        """The agent ends: let the workload go on unless it is given up already."""
        if (self._machine.state, Event.RELEASE) in _RELEASABLE:
            await self.release("the agent was shut down")
        await self._close_sending()

    async def _once(self, event: Event, name: str, work: Callable[[], Any]) -> Any:
        async with self._lock:
            if event not in self._answers:
                self._machine.check(event, self._around.kernel.now())
                with self._timed(name):
                    answer = await work()
                self._apply(event)
                self._answers[event] = answer
            return self._answers[event]

    def _apply(self, event: Event, *, reason: str = "", expired: bool = False) -> None:
        self._machine.apply(event, self._around.kernel.now(), reason=reason, expired=expired)
        self.record.state, self.record.reason = self._machine.state, self._machine.reason

    def _arm(self) -> None:
        deadline = self._machine.deadline()
        assert deadline is not None
        delay = max(0.0, deadline - self._around.kernel.now())
        self._lease = asyncio.get_running_loop().call_later(delay, self._expire)

    def _disarm(self) -> None:
        if self._lease is not None:
            self._lease.cancel()
            self._lease = None

    def _expire(self) -> None:
        self._around.spawn(self._go_back("the lease ran out", expired=True), "the lease")

    def _proxy_lost(self) -> None:
        self._around.spawn(self._go_back("the proxy died"), "the proxy's end")

    async def _go_back(self, reason: str, *, expired: bool = False) -> None:
        try:
            await self.release(reason, expired=expired)
        except AgentError as error:
            _LOG.info("%s: nothing to release: %s", self.record.migration, error)

    def _close_adoption(self) -> None:
        if self._adoption is not None:
            self._adoption.close()
            self._adoption = None

    @property
    def _lazily(self) -> bool:
        return self.record.memory == "post-copy"

    @property
    def _key(self) -> bytes:
        return bytes.fromhex(self._image_key)

    def _required_tree(self) -> Tree:
        assert self._tree is not None
        return self._tree

    def _folders(self) -> Folders:
        return self._around.store.folders(self.record.migration)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = self._around.kernel.now()
        try:
            yield
        finally:
            self._seconds[name] = round(self._around.kernel.now() - began, 6)


_RELEASABLE = {(state, Event.RELEASE) for state in (State.STOPPED, State.DUMPED, State.ADOPTED, State.SEALED)}
