"""One migration at its source: from the stop to the commit, or back.

Each step is locked against the others, timed, and remembered: said again it is answered again. What fails leaves the
state as it was; only `release`, the lease and the proxy's death lead back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from checkpoint import adopt, sockopts, store, unkept
from checkpoint.adopt import Given
from checkpoint.api import Adopted, Custody, Dumped, PrepareOutbound, Sealed
from checkpoint.core import flows, manifest, readdress
from checkpoint.core.custody import Event, Machine, State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord
from checkpoint.core.manifest import Proof
from checkpoint.core.sockopts import SocketOptions
from checkpoint.engine import DumpReport, Folders, Helper
from checkpoint.images import Images, Stream
from checkpoint.memory.ways import Giving
from checkpoint.sockets import OpenSockets
from checkpoint.surroundings import STOPPED_BEFORE, Surroundings
from checkpoint.tree import Tree, stat, until_gone

_LOG = logging.getLogger(__name__)

DUMP_TRIES = 3
"""The queues of a stopped workload fill up, and then stand still: so a later try is better off than the first."""

_GONE_SECONDS = 60.0
"""A killed process with much memory takes the kernel a while to take down; nobody waits for it that long."""
_BURIAL_SECONDS = 5.0


class Outbound:
    """A migration on the way out."""

    def __init__(
        self, around: Surroundings, record: MigrationRecord, image_key: str = "", *, allow_loss: bool = False
    ) -> None:
        """`image_key` is "" for a migration that an agent before this one prepared: it is over, or goes back."""
        self.record = record
        self._around = around
        self._lock = asyncio.Lock()
        self._machine = Machine(record.state, max_hold_seconds=record.max_hold_seconds)
        self._machine.reason = record.reason
        self._seconds: dict[str, float] = {}
        self._helper: Helper | None = None
        self._tree: Tree | None = None
        self._adoption: adopt.Adoption | None = None
        self._image_key = image_key
        self._allow_loss = allow_loss
        self._given_up: dict[int, str] = {}
        """The connections that cannot be kept, by inode, and why."""
        self._key_used = False
        self._dumped: dict[str, int] = {}
        self._pages: asyncio.Task[dict[str, Proof]] | None = None
        self._lease: asyncio.TimerHandle | None = None
        self._burial: asyncio.Task[None] | None = None
        self._sorted = flows.Sorted([], [], [], [])
        self._sockets: OpenSockets | None = None
        self._images = Images(self._folders().images, around.messages)
        self._streams: dict[int, Stream] = {}
        self._expects: dict[int, int] = {}
        """The next byte that each restored connection expects, as the proxy has seen at the live one."""
        self._restored_at: dict[int, str] = {}
        """Each adopted connection's own address at the destination, by the socket's inode."""
        self._answers: dict[Event, Any] = {}
        self._giving: Giving | None = None
        """With post-copy: whoever gives the memory."""

    def custody(self) -> Custody:
        one = self.record
        state, reason = self._machine.state, self._machine.reason
        port = 0 if self._giving is None else self._giving.port
        return Custody(one.migration, one.workload, "source", state.value, reason, dict(self._seconds), port)

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
        self._helper = await self._prepare_engine()
        if self._lazily:
            host = next(iter(self.record.readdress))
            self._giving = await Giving.start(self._around.kernel, self._key, host)
            self.record.pager = self._giving.identity
        return self.custody()

    async def _prepare_engine(self) -> Helper:
        root = self.record.root
        return await self._around.engine.prepare(None if root is None else root.pid, lazily=self._lazily)

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
            self._given_up = await asyncio.to_thread(unkept.given_up, self._around.kernel, self._required_tree())
        looking = self._around.spawn(asyncio.to_thread(self._look, self._required_tree()), "look at the sockets")
        try:
            report = await self._dump_patiently(folders)
        finally:
            options = await looking
        if self._giving is not None:
            await self._giving.open(self._required_tree().pids)
        (folders.images / sockopts.FILE).write_bytes(msgspec.json.encode(options))
        (folders.images / STOPPED_BEFORE).write_bytes(msgspec.json.encode(self.record.stopped_before))
        self._dumped = store.listing(folders.images)
        # Nobody edits the pages: their tags can be made while the sockets are given to the proxy.
        pages = list(filter(manifest.is_pages, self._dumped))
        proving = self._around.store.prove(folders.images, self._key, self._dumped, pages)
        self._pages = self._around.spawn(proving, "tag the pages")
        return Dumped(sum(self._dumped.values()), report.processes, report.criu_seconds)

    def _look(self, tree: Tree) -> list[SocketOptions]:
        self._close_sockets()
        self._sockets = OpenSockets(self._around.kernel, tree)
        return sockopts.read(self._sockets.by_ino.values())

    async def _dump_patiently(self, folders: Folders) -> DumpReport:
        """Once more, from the start, where a peer's bytes came between CRIU's two looks at their queue."""
        for _ in range(DUMP_TRIES - 1):
            try:
                return await self._dump_once(folders)
            except AgentError as error:
                if error.code is not Code.QUEUE_MOVED:
                    raise
                _LOG.info("%s: %s: dumping once more", self.record.migration, error)
                self._around.store.make(self.record.migration)
        return await self._dump_once(folders)

    async def _dump_once(self, folders: Folders) -> DumpReport:
        helper = self._helper or await self._prepare_engine()
        self._helper = None
        seen = stat(helper.pid)
        self.record.helper = None if seen is None else Identity(helper.pid, seen.start_time)
        self._around.save()
        try:
            return await self._around.engine.dump(helper, self._required_tree(), folders, lazily=self._lazily)
        finally:
            self.record.helper = None
            self._around.spawn(helper.close(), "criu's end")

    async def adopt(self) -> Adopted:
        answer: Adopted = await self._once(Event.ADOPT, "adopt", self._adopt)
        return answer

    async def _adopt(self) -> Adopted:
        self._images = Images(self._folders().images, self._around.messages)
        assert self._sockets is not None
        self._sorted = flows.sort(self._images.sockets(), self._sockets.by_ino, self._sockets.datagrams)
        legs: list[msgspec.Raw] = []
        if self._sorted.flows or self._sorted.listeners or self._sorted.datagrams:
            self._adoption = adopt.Adoption(self._around.adopt_path, self.record.migration, self._proxy_lost)
            legs = await self._adoption.adopt(self._given(), len(self._sorted.flows))
            restored = [*zip(self._sorted.flows, adopt.ends_of(legs[: len(self._sorted.flows)]), strict=True)]
            self._restored_at = {one.socket.ino: leg.app[0] for one, leg in restored if leg.app}
            self._expects = {one.socket.ino: leg.snd_seq for one, leg in restored if leg.snd_seq is not None}
        self._close_sockets()
        raw = msgspec.Raw(b"[" + b",".join(bytes(leg) for leg in legs) + b"]")
        return Adopted(len(self._sorted.flows), len(self._sorted.listeners), raw)

    def _given(self) -> Iterator[Given]:
        """Each socket for the proxy; its image is read when its turn comes."""
        assert self._sockets is not None
        opened = self._sockets.by_ino
        for held in self._sorted.flows:
            ino = held.socket.ino
            self._streams[ino] = self._images.stream(ino)
            say = adopt.describe(held, self._streams[ino])
            say.given_up = self._given_up.get(ino, "")
            yield Given(say, opened[ino].sock)
        for held in self._sorted.listeners:
            yield Given(adopt.describe(held, None), opened[held.socket.ino].sock)
        for held in self._sorted.datagrams:
            yield Given(adopt.describe(held, None, kind="datagrams"), self._sockets.datagrams[held.socket.ino].sock)

    async def seal(self) -> Sealed:
        answer: Sealed = await self._once(Event.SEAL, "seal", self._seal)
        return answer

    async def _seal(self) -> Sealed:
        if self._key_used:
            raise AgentError(Code.WRONG_STATE, "sealing failed before, and a key is for one seal: release the workload")
        self._key_used = True
        folders = self._folders()
        for held in self._sorted.flows:
            stream = self._streams[held.socket.ino]
            numbers = readdress.without_unsent(readdress.without_fins(held.socket.state, stream.numbers))
            expects = self._expects.get(held.socket.ino, numbers.inq_seq)
            stream.write(readdress.reading_from(numbers, expects))
        self._images.edit_sockets(self.record.readdress, self._sorted.inside, self._restored_at)
        assert self._pages is not None
        known = {stream.name: stream.raw for stream in self._streams.values()}
        found, digest = await self._around.store.seal(folders.images, self._key, self._dumped, await self._pages, known)
        return Sealed(str(folders.images), digest, found.image_bytes)

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
        self._close_sockets()
        if self._tree is not None:
            everything = [*self._sorted.flows, *self._sorted.listeners]
            reuse = {one.socket.ino: one.socket.reuse_address for one in everything}
            backlogs = {one.socket.ino: one.socket.backlog for one in self._sorted.listeners}
            self._around.engine.release(self._tree, reuse, backlogs)
            self._tree.close()
            self._tree = None
        self._apply(Event.RELEASE, reason=reason, expired=expired)
        self._around.save()
        if self._pages is not None:
            self._pages.cancel()
        if self._helper is not None:
            await self._helper.close()
            self._helper = None

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
            self._around.store.remove(self.record.migration)
            return self.custody()

    async def close(self) -> None:
        """The agent ends: let the workload go on unless it is given up already."""
        if (self._machine.state, Event.RELEASE) in _RELEASABLE:
            await self.release("the agent was shut down")

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

    def _close_sockets(self) -> None:
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

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
