"""One migration at its source: from the stop to the commit, or back.

Each step is locked against the others, timed, and remembered: said again it is answered again. What fails leaves the
state as it was; only `release`, the lease and the proxy's death lead back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from checkpoint.api import (
    NO_FILES,
    Adopted,
    Beacon,
    Changes,
    Connections,
    Custody,
    Dumped,
    Files,
    Foresee,
    Packed,
    Paired,
    PreDump,
    PreDumped,
    PrepareOutbound,
    Sealed,
    SendImages,
    StoreImages,
)
from checkpoint.baggage import lent
from checkpoint.baggage.outgoing import Outgoing
from checkpoint.core import pairs
from checkpoint.core.baggage import Listing
from checkpoint.core.custody import HOLDING, Event, State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord
from checkpoint.images import cores, mappings
from checkpoint.memory import scan
from checkpoint.memory.ways import Giving
from checkpoint.moves.adopting import Adopting
from checkpoint.moves.ahead import Ahead
from checkpoint.moves.dumping import Beside, Dumping, Show
from checkpoint.moves.ending import Ending
from checkpoint.moves.foreseen import Foreseen
from checkpoint.moves.handing import Handing
from checkpoint.moves.lease import Lease
from checkpoint.moves.naming import Naming
from checkpoint.moves.rounds import Rounds
from checkpoint.moves.shipping import Shipping
from checkpoint.moves.side import Side
from checkpoint.moves.snapshot import Snapshot
from checkpoint.moves.surroundings import STOPPED_BEFORE, Surroundings
from checkpoint.processes import attributes, locks
from checkpoint.processes.tree import Tree, descendants, threads
from checkpoint.sockets import sockopts

_LOG = logging.getLogger(__name__)


class Outbound(Side):
    """A migration on the way out."""

    def __init__(
        self, around: Surroundings, record: MigrationRecord, image_key: str = "", *, allow_loss: bool = False,
        files: Files = NO_FILES, arrived: Sequence[Listing] = (),
    ) -> None:  # fmt: skip
        """`image_key` is "" for a migration that an agent before this one prepared: it is over, or goes back."""
        super().__init__(around, record, image_key)
        self._allow_loss = allow_loss
        self._folders = around.store.folders(record.migration)
        self._outgoing = Outgoing(around.store.beside(record.migration), around.layer, files.named, arrived)
        self._snapshot = Snapshot(around, self._folders, self._key)
        self._foreseen = Foreseen(around, record.migration)
        self._adopting = Adopting(
            around, record.migration, self._folders.images, self._key, self._proxy_lost, self._foreseen
        )
        self._shipping = Shipping(self._folders.images)
        self._rounds = Rounds(around, record, self._folders, self._shipping, self._key)
        self._dumping = Dumping(around, record, files.ghost_limit_bytes, self._rounds)
        self._lease = Lease(around.kernel, self._expire)
        self._ending = Ending(around, record.migration, self._kill, self._adopting.close)
        self._ahead = Ahead({Event.DUMP: self.dump, Event.ADOPT: self.adopt, Event.SEAL: self.seal})
        self._handing = Handing(around, record)
        self._naming = Naming(around, record)
        self._beacon: Beacon | None = None
        self._reading: dict[str, asyncio.Task[Any]] = {}
        """Beside the dump: what CRIU does not save, by the files that it will be in."""

    def custody(self) -> Custody:
        return msgspec.structs.replace(super().custody(), memory_port=self._handing.port, beacon=self._beacon)

    def same_as(self, wanted: PrepareOutbound) -> bool:
        one = self.record
        key = self._image_key or wanted.image_key
        ours = (one.workload, one.readdress, one.max_hold_seconds, key, one.memory)
        theirs = (wanted.workload, wanted.readdress, wanted.max_hold_seconds, wanted.image_key, wanted.memory)
        return ours == theirs

    async def prepare(self) -> Custody:
        """Start CRIU and make the folder, so that the freeze pays for neither. What fails leaves nothing."""
        async with self._lock:  # whoever takes it back meanwhile finds all of it, or nothing
            try:
                await self._prepare()
            except BaseException:
                await self._handing.close()
                await self._dumping.close()
                self._naming.take_back()
                self._around.store.remove(self.record.migration)
                raise
            return self.custody()

    async def _prepare(self) -> None:
        self._around.store.make(self.record.migration)
        self._beacon = self._around.store.mark(self.record.migration)
        if self.record.memory == "post-copy":
            await self._handing.start(self._key)
        await self._dumping.prepare(self._handing.giving, hides=await self._foreseen.must_hide(self._root))
        await self._naming.lend(lent.deleted(descendants(self._root)))

    @property
    def _root(self) -> int:
        """The PID of the workload's first process."""
        assert self.record.root is not None
        return self.record.root.pid

    async def send(self, wanted: SendImages) -> Custody:
        """Connect to the agent that the images go to, before the freeze; or send it the files that were packed."""
        async with self._lock:
            if wanted.files or not self._shipping.agreed:
                self._check(Event.STOP)
                if wanted.memory and not self._handing.port:
                    giving = await self._handing.start(self._key)
                    await giving.early(descendants(self._root))
                    await self._dumping.prepare(giving)
                if self._handing.giving is not None:
                    await self._handing.giving.limit(wanted.bytes_per_second)
                await self._shipping.send(self._around.kernel, self._key, wanted, self._outgoing.folder)
            return self.custody()

    async def pack(self) -> Packed:
        """Pack the workload's files, while it runs: inside the freeze it is only what has changed since."""
        async with self._lock:
            self._check(Event.STOP)
            with self._timed("pack"):
                if not self._outgoing:
                    return Packed("")
                return await asyncio.to_thread(self._outgoing.first, descendants(self._root))

    async def store(self, wanted: StoreImages) -> Custody:
        """Have the images go into an archive, once they are sealed; or the files that were packed, at once."""
        async with self._lock:
            if wanted.files or not self._shipping.agreed:
                self._check(Event.STOP)
                await self._shipping.store(wanted, self.record, self._around.here, self._outgoing.folder)
            return self.custody()

    async def foresee(self, wanted: Foresee) -> Connections:
        """What of the workload's connections can be made at the destination while it runs."""
        async with self._lock:
            self._check(Event.STOP)
            with self._timed("foresee"):
                return await self._foreseen.look(self._root, wanted.fewest)

    async def pair(self, wanted: Paired) -> Custody:
        """Both ends of these are there: CRIU need not see them."""
        async with self._lock:
            self._check(Event.STOP)
            self._foreseen.stand(wanted.flows)
            if self._foreseen.is_any:
                await self._dumping.prepare(self._handing.giving, hides=True)
            return self.custody()

    async def survey(self) -> Custody:
        """Look through the memory that goes in no image, as far as it can be done now, so that the freeze does not."""
        # Not under the lock: it is nobody's state, and a release must not wait for it.
        if self._handing.giving is not None and not await self._handing.giving.survey():
            _LOG.info("%s: there is too much memory to be looked through before the freeze", self.record.migration)
        return self.custody()

    async def predump(self, wanted: PreDump) -> PreDumped:
        """One round of pre-copy."""
        async with self._lock:
            self._check(Event.STOP)
            with self._timed("predump"):
                return await self._rounds.make(wanted)

    async def ready(self) -> Custody:
        """Have CRIU get as far as it can before the stop."""
        async with self._lock:
            self._check(Event.STOP)
            await self._dumping.begin(self._folders, self._beside)
            return self.custody()

    @property
    def _beside(self) -> Beside:
        return Beside(self._shipping, self._look, self._snapshot.tagging, self._again)

    async def stop(self, *, ahead: bool = False) -> Custody:
        """`ahead`: what follows, up to the seal, follows at once (`checkpoint.moves.ahead`)."""
        async with self._lock:
            if not self._machine.done(Event.STOP):
                with self._timed("stop"):
                    await self._stop()
                if ahead:
                    self._around.spawn(self._ahead.go(), "go ahead")
            return self.custody()

    async def _stop(self) -> None:
        # On record first: an agent that dies right after the signal must know that it has to take it back.
        self._decide(Event.STOP)
        try:
            self._tree = await self._around.engine.stop(self._root)
        except Exception as error:
            await self._release(str(error))
            raise
        self.record.members = [Identity(one.pid, one.start_time) for one in self._tree.members]
        self.record.stopped_before = sorted(self._tree.stopped_before)
        self._lease.arm(self._machine.deadline())

    async def dump(self) -> Dumped:
        return await self._once(Event.DUMP, "dump", self._dump)

    async def _dump(self) -> Dumped:
        tree = self._required_tree()
        await self._naming.lend(lent.deleted_mappings(tree.pids))
        if self._allow_loss:
            await asyncio.to_thread(self._adopting.give_up, tree)
        self._adopting.watch()
        self._read_beside(tree)
        packing = self._around.spawn(asyncio.to_thread(self._outgoing.second, tree.pids), "pack the files")
        try:
            report = await self._dumping.dump(tree, self._folders, self._beside)
        finally:
            # All, whatever fails: one that went on would look at a tree that is let go of, and keep its sockets.
            await asyncio.wait([packing, *self._reading.values()])
        packing.result()
        read = {name: task.result() for name, task in self._reading.items()}
        self._shipping.check()
        self._outgoing.hand_over(self._folders.images)
        await self._complete_images()
        self._snapshot.keep(self._of_ours(read))
        size_bytes = sum(self._snapshot.dumped.values())
        return Dumped(size_bytes, report.processes, report.criu_seconds, *self._adopting.take_legs())

    def _read_beside(self, tree: Tree) -> None:
        """For nothing: CRIU has a process of its own, and the tree stands still."""
        kernel, spawn = self._around.kernel, self._around.spawn
        self._reading = {
            attributes.FILE: spawn(asyncio.to_thread(attributes.read, kernel, tree), "read attributes"),
            locks.FILE: spawn(asyncio.to_thread(locks.read, tree.pids), "read the locks"),
        }

    def _look(self, show: Show) -> None:
        looking = self._adopting.look(self._required_tree(), show)
        self._reading[sockopts.FILE] = self._around.spawn(looking, "look at the sockets")

    async def _again(self) -> None:
        await asyncio.wait({self._reading[sockopts.FILE]})  # what it finds is forgotten, and not before it is found
        await self._adopting.again()

    async def _complete_images(self) -> None:
        """CRIU has interrupted what threads wait for, and written the areas as it was shown them."""
        images, messages = self._folders.images, self._around.messages
        cores.edit(images, messages, threads(self._root))
        if self._handing.giving is not None:
            shortened = await self._handing.giving.write_map(images)
            mappings.lengthen(images, messages, {pid: scan.large_areas(pid) for pid in shortened})

    def _of_ours(self, read: Mapping[str, object]) -> dict[str, object]:
        """Our files among the images, by their names."""
        found = {**read, lent.FILE: self.record.lent, pairs.FILE: self._foreseen.left}
        telling = {name: one for name, one in found.items() if one}
        return {**telling, STOPPED_BEFORE: self.record.stopped_before}

    async def adopt(self) -> Adopted:
        return await self._once(Event.ADOPT, "adopt", self._adopting.finish)

    async def seal(self) -> Sealed:
        return await self._once(Event.SEAL, "seal", self._seal)

    async def _seal(self) -> Sealed:
        found, digest = await self._snapshot.seal(self.record.readdress, self._adopting)
        self._adopting.begin_comparing()
        return await self._shipping.finish(digest, found.image_bytes)

    async def compare(self) -> Changes:
        """What has changed of the connections of pairs since those were made."""
        return Changes(await self._adopting.compare())

    async def commit(self) -> Custody:
        async with self._lock:
            if not self._machine.done(Event.COMMIT):
                with self._timed("commit"):
                    await self._commit()
            return self.custody()

    async def _commit(self) -> None:
        """Give the workload up. The instant of `kill` is the one after which it is the destination's."""
        self._check(Event.COMMIT)
        await self._handing.commit()
        self._decide(Event.COMMIT)
        tree = self._required_tree()
        self._tree = None
        if self._handing.after is not None:
            self._apply(Event.YIELD)
        self._ending.begin(tree, self._handing.after)
        self._adopting.give_away()
        self._around.given_up(self.record)
        self._lease.disarm()

    def _kill(self, tree: Tree) -> None:
        self._around.engine.kill(tree)
        self._apply(Event.KILLED)

    def go_on_giving(self, giving: Giving, tree: Tree) -> None:
        """After the agent's restart."""
        self._handing.giving = giving
        self._ending.begin(tree, giving)

    async def release(self, reason: str = "", *, expired: bool = False) -> Custody:
        """Let the workload go on where it was."""
        # Whoever holds the lock may be waiting for any of the four.
        reason = reason or "the controller asked for it"
        code = Code.LEASE_EXPIRED if expired else Code.WRONG_STATE
        why = AgentError(code, f"the dump was broken off: {reason}")
        self._dumping.break_off(why)
        self._outgoing.break_off(why)
        self._shipping.stop(expired=expired, reason=reason)
        self._adopting.hurry()
        async with self._lock:
            if not self._machine.done(Event.RELEASE):
                self._check(Event.RELEASE)
                with self._timed("release"):
                    await self._release(reason, expired=expired)
            return self.custody()

    async def _release(self, reason: str, *, expired: bool = False) -> None:
        self._lease.disarm()
        await self._handing.close()
        await self._adopting.release()
        self._snapshot.close()
        if self._tree is not None:
            handed = self._adopting
            self._around.engine.release(self._tree, handed.reuse_address(), handed.backlogs())
            self._tree.close()
            self._tree = None
        self._apply(Event.RELEASE, reason=reason, expired=expired)
        self._around.note()
        await self._dumping.close()
        await self._shipping.close()

    async def forget(self) -> Custody:
        """Delete the images; raises AgentError WRONG_STATE while the workload stands still.

        A killed copy has ended by then, as a rule: its process ids are free for its return.
        """
        await self._ending.passed()
        if self._machine.state is State.PREPARED:
            await self.release()
        async with self._lock:
            if self._machine.state not in (State.RELEASED, State.COMMITTED):
                raise AgentError(Code.WRONG_STATE, f"release it first: the migration is {self.state.value}")
            self._outgoing.close()
            if self._handing.after is None:
                await self._handing.close()
            self._around.store.remove(self.record.migration)
            self._naming.take_back()
            await self._shipping.close()
            return self.custody()

    async def close(self) -> None:
        """The agent ends: let the workload go on unless it is given up already."""
        if self._machine.state in HOLDING:
            await self.release("the agent was shut down")
        await self._shipping.close()

    def _expire(self) -> None:
        self._around.spawn(self._go_back("the lease ran out", expired=True), "the lease")

    def _proxy_lost(self) -> None:
        self._around.spawn(self._go_back("the proxy died"), "the proxy's end")

    async def _go_back(self, reason: str, *, expired: bool = False) -> None:
        try:
            await self.release(reason, expired=expired)
        except AgentError as error:
            _LOG.info("%s: nothing to release: %s", self.record.migration, error)
