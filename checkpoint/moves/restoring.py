"""The restore: its files are put in their places, CRIU makes the tree, and every byte is verified beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from checkpoint.api import Changed, Connections, Paired
from checkpoint.baggage import lent
from checkpoint.baggage.incoming import Incoming
from checkpoint.baggage.outgoing import LIST, is_baggage
from checkpoint.core import manifest
from checkpoint.core.errors import AgentError
from checkpoint.core.manifest import Manifest
from checkpoint.core.sockopts import SocketOptions
from checkpoint.engine import Folders, Helper, RestoreReport
from checkpoint.images import chain, store
from checkpoint.images.folder import Images
from checkpoint.moves import logs
from checkpoint.moves.pairing import Pairing
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import attributes
from checkpoint.processes.attributes import TaskAttributes
from checkpoint.processes.tree import Tree, until_gone
from checkpoint.sockets import sockopts

_LOG = logging.getLogger(__name__)

_GONE_SECONDS = 10.0


class Restoring:
    """One migration's."""

    def __init__(
        self, around: Surroundings, migration: str, work: Path, incoming: Incoming,
        timed: Callable[[str], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        """`work` is where CRIU's logs go; `timed` measures a step, by its name."""
        self._around, self._migration, self._work, self._incoming = around, migration, work, incoming
        self._timed = timed
        self._pairing = Pairing(around.kernel)
        self._helper: Helper | None = None
        self._working: Helper | None = None
        self.not_carried: list[str] = []
        """What the copy has not as the original had it, in words."""

    async def prepare(self) -> None:
        """Start CRIU, so that the freeze does not pay for it."""
        self._helper = await self._start()

    async def _start(self) -> Helper:
        return await self._around.engine.prepare(inherited=self._pairing.inherited)

    async def pair(self, wanted: Connections) -> Paired:
        """Make the copy's ends of these connections, as far as that can be done."""
        return await self._pairing.make(wanted)

    def adjust(self, changes: Iterable[Changed]) -> None:
        """Of the copy's ends of pairs, before it runs. Raises AgentError."""
        self._pairing.adjust(changes)

    def give_away(self) -> None:
        """The copy runs: what it closes is to be closed."""
        self._pairing.close()

    async def restore(self, folder: Path, sealed: Manifest, key: bytes, *, lazily: bool) -> RestoreReport:
        """The shape of the folder is checked before CRIU reads it, and every byte beside it: before the commit.

        Raises AgentError; nothing is left of the tree then.
        """
        with logs.keeping(self._around.folder, f"{self._migration}.restore"):
            return await self._restore(folder, sealed, key, lazily=lazily)

    async def _restore(self, folder: Path, sealed: Manifest, key: bytes, *, lazily: bool) -> RestoreReport:
        sizes = store.listing(folder)
        manifest.compare_sizes(sealed, sizes)
        looking = self._around.spawn(self._survey(folder, key, sizes), "look at the images")
        try:
            with self._timed("files"):
                await self._place_files(folder, sealed, key)
            report = await self._make(chain.unfold(folder, sealed.files, self._work / "chain"), lazily=lazily)
        except AgentError:
            manifest.compare(sealed, await looking)  # damage explains whatever CRIU stumbled over
            raise
        try:
            manifest.compare(sealed, await looking)
            self._carry_over(report.tree, Images(folder, self._around.messages))
        except BaseException:
            await self.discard(report.tree)
            raise
        return report

    async def _place_files(self, folder: Path, sealed: Manifest, key: bytes) -> None:
        """Before CRIU opens them; and not one of them before it is known that they are what was sealed."""
        if LIST in sealed.files:
            ours = [name for name in sealed.files if is_baggage(name)]
            sizes = {name: one.size for name, one in sealed.files.items()}
            found = await self._around.store.prove(folder, key, sizes, ours)
            manifest.compare(Manifest({name: sealed.files[name] for name in ours}), Manifest(found))
            await asyncio.to_thread(self._incoming.place, folder)

    async def _survey(self, folder: Path, key: bytes, sizes: Mapping[str, int]) -> Manifest:
        """What the images are while CRIU reads them; what that proves and what not: `checkpoint.images.store`."""
        with self._timed("verify"):
            return await self._around.store.survey(folder, key, sizes)

    async def _make(self, folder: Path, *, lazily: bool) -> RestoreReport:
        """What CRIU makes, and what it was not shown besides."""
        wanted = self._pairing.choose(Images(folder, self._around.messages))
        checking = self._around.spawn(asyncio.to_thread(self._pairing.check), "look at the pairs")
        try:
            report = await self._run_criu(folder, lazily=lazily, inherited=wanted)
        finally:
            await asyncio.wait({checking})
        try:
            checking.result()
            with self._timed("give"):
                await self._pairing.give(report.tree)
        except BaseException:
            await self.discard(report.tree)
            raise
        return report

    async def _run_criu(self, folder: Path, *, lazily: bool, inherited: list[str]) -> RestoreReport:
        helper = self._helper or await self._start()
        self._helper, self._working = None, helper
        try:
            with self._timed("criu"):
                folders = Folders(folder, self._work)
                return await self._around.engine.restore(helper, folders, lazily=lazily, inherited=inherited)
        finally:
            self._working = None

    def _carry_over(self, copy: Tree, images: Images) -> None:
        """What CRIU has not."""
        options = images.ours(sockopts.FILE, list[SocketOptions], [])
        others = images.ours(attributes.FILE, list[TaskAttributes], [])
        self.not_carried = sockopts.write(self._around.kernel, copy, options)
        self.not_carried += attributes.write(self._around.kernel, copy, others)
        lent.take_back(images.ours(lent.FILE, list[str], []))
        for words in self.not_carried:
            _LOG.warning("%s: not carried over: %s", self._migration, words)

    async def discard(self, held: Tree) -> None:
        """End a copy that never ran."""
        self._around.engine.discard(held)
        await _gone(held)

    async def destroy(self, held: Tree) -> None:
        """End a copy that must not run any more."""
        self._around.engine.kill(held)
        await _gone(held)

    def abort(self) -> None:
        """Break off a restore: whoever waits for it is told that it failed."""
        if self._working is not None:
            self._working.abort()

    async def close(self) -> None:
        """CRIU is wanted no more, nor what was made for it."""
        await self._close_helper()
        self._pairing.close()

    async def _close_helper(self) -> None:
        if self._helper is not None:
            await self._helper.close()
            self._helper = None


async def _gone(held: Tree) -> None:
    await until_gone(held, _GONE_SECONDS)
    held.close()
