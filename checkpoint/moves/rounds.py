"""Pre-copy at the source: rounds of CRIU's pre-dump while the workload runs, until the freeze is short enough."""

from __future__ import annotations

import asyncio
import shutil

from checkpoint.api import PreDump, PreDumped
from checkpoint.core import manifest
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, MigrationRecord
from checkpoint.core.precopy import Limits, Round, answer
from checkpoint.engine import Folders
from checkpoint.images import chain
from checkpoint.images.growing import Tags
from checkpoint.moves import logs
from checkpoint.moves.shipping import Shipping
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes.tree import stat


class Rounds:
    """One migration's. A round that failed makes all of them worthless: the kernel has forgotten what was written."""

    def __init__(
        self, around: Surroundings, record: MigrationRecord, folders: Folders, shipping: Shipping, key: bytes
    ) -> None:
        self._around, self._record, self._folders, self._shipping = around, record, folders, shipping
        self._key = key
        self._folder = folders.images.with_name("rounds")
        self._made: list[Round] = []
        self._answers: dict[int, PreDumped] = {}
        self.tags: Tags = {}
        """Of the memory in them."""

    @property
    def parent(self) -> str:
        """The last one, relative to the images; "" where there is none."""
        return f"../{self._folder.name}/{len(self._made)}" if self._made else ""

    async def make(self, wanted: PreDump) -> PreDumped:
        """One round, and what it says about the next. Raises AgentError."""
        if wanted.number not in self._answers:
            if wanted.number != len(self._made) + 1:
                raise AgentError(Code.WRONG_STATE, f"round {wanted.number} does not follow {len(self._made)}")
            try:
                self._made.append(await self._make(wanted.number))
            except BaseException:
                self._drop()
                raise
            self._answers[wanted.number] = answer(self._made, Limits(wanted.base_seconds))
        return self._answers[wanted.number]

    async def _make(self, number: int) -> Round:
        began = self._around.kernel.now()
        folder = self._folder / str(number)
        folder.mkdir(mode=0o700, parents=True)
        await self._pre_dump(Folders(folder, self._folders.work), f"../{number - 1}" if number > 1 else "")
        sizes = await asyncio.to_thread(chain.add, self._folders.images, folder, number)
        _, tags = await asyncio.gather(self._shipping.offer(sizes), self._tag(sizes))
        self.tags |= tags
        return Round(sum(sizes.values()), self._around.kernel.now() - began)

    async def _tag(self, sizes: dict[str, int]) -> Tags:
        """While the workload runs, so that the freeze need not."""
        pages = filter(manifest.is_pages, sizes)
        proofs = await self._around.store.prove(self._folders.images, self._key, sizes, pages)
        return {name: list(one.tags[: one.size // manifest.CHUNK_BYTES]) for name, one in proofs.items()}

    async def _pre_dump(self, folders: Folders, parent: str) -> None:
        root = self._record.root
        assert root is not None
        helper = await self._around.engine.prepare(root.pid)
        try:
            seen = stat(helper.pid)
            self._record.helper = None if seen is None else Identity(helper.pid, seen.start_time)
            self._around.save()
            with logs.keeping(self._around.folder, f"{self._record.migration}.pre-dump"):
                await self._around.engine.pre_dump(helper, root.pid, folders, parent)
        finally:
            self._record.helper = None
            await helper.close()

    def forget(self) -> None:
        """Nothing is known any more of what was written since: what comes next begins anew, with everything."""
        self._made.clear()
        self._answers.clear()
        self.tags.clear()

    def _drop(self) -> None:
        self.forget()
        self._shipping.restart()
        shutil.rmtree(self._folder, ignore_errors=True)
        for one in self._folders.images.iterdir():
            one.unlink()
