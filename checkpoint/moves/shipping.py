"""Where the images go: to the destination's agent, into an archive, or nowhere, where it sees their folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from checkpoint.api import Sealed, SendImages, StoreImages, TransferReport
from checkpoint.core import stored
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import MigrationRecord
from checkpoint.core.stored import Machine, Manifest
from checkpoint.images import store
from checkpoint.kernel import Kernel
from checkpoint.transfer.sending import Sending
from checkpoint.transfer.storing import Storing, files_image


class Shipping:
    """One migration's: `send` or `store` before the freeze, or neither; `watch`, `restart`; `finish`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._way: Sending | Storing | None = None
        self._files: Sending | Storing | None = None

    @property
    def agreed(self) -> bool:
        """Whether they are to go anywhere."""
        return self._way is not None

    async def send(self, kernel: Kernel, key: bytes, wanted: SendImages, packed: Path) -> None:
        """Connect to the agent that they go to. The workload's files, which are in `packed`, are sent at once: then it
        returns when all of them have arrived. Raises AgentError."""
        if not wanted.files:
            self._way = await Sending.open(kernel, key, self._folder, wanted)
            return
        self._files = await Sending.open(kernel, key, packed, wanted)
        try:
            await self._files.finish(store.listing(packed))
        finally:
            await self._files.close()
            self._files = None

    async def store(self, wanted: StoreImages, record: MigrationRecord, here: Machine, packed: Path) -> None:
        """Into an archive, once they are sealed. The workload's files, which are in `packed`, at once: then it returns
        when all of them are there. Raises AgentError."""

        def draft() -> Manifest:
            machine = stored.where_started(here, record.cpu_features)
            name = files_image(record.migration) if wanted.files else record.migration
            return Manifest(
                stored.VERSION, name, record.workload, record.argv, time.time(), machine, "", [],
                record.readdress, "", len(record.members), [], [], [],
            )  # fmt: skip

        if not wanted.files:
            way = Storing(self._folder, wanted, draft)
            await way.try_out()
            self._way = way
        elif self._files is None:  # said twice, they are there
            self._files = Storing(packed, wanted, draft)
            try:
                await self._files.finish(store.listing(packed))
            except BaseException:
                await self._files.close()
                self._files = None
                raise

    def watch(self) -> None:
        """A dump begins to write them."""
        if self._way is not None:
            self._way.watch()

    async def offer(self, sizes: Mapping[str, int]) -> None:
        """These are finished, before the dump begins; returns when they have arrived. Raises AgentError."""
        if self._way is not None:
            await self._way.offer(sizes)

    def restart(self) -> None:
        """That dump is not wanted any more; there will be another."""
        if self._way is not None:
            self._way.restart()

    def check(self) -> None:
        """Raises AgentError where they cannot arrive any more."""
        if self._way is not None:
            self._way.check()

    async def finish(self, digest: str, image_bytes: int) -> Sealed:
        """They are sealed, by the manifest with that digest; returns when all of them are where they should be."""
        if self._way is None:
            return Sealed(str(self._folder), digest, image_bytes, TransferReport("shared", image_bytes))
        report = await self._way.finish(store.everything(self._folder))
        return Sealed("", digest, image_bytes, report)

    def stop(self, *, expired: bool, reason: str) -> None:
        """Break it off: whoever waits for it is told."""
        code = Code.LEASE_EXPIRED if expired else Code.TRANSFER_BROKEN
        why = AgentError(code, f"the images had not arrived: {reason or 'it was taken back'}")
        for one in (self._files, self._way):
            if one is not None:
                one.stop(why)

    async def close(self) -> None:
        ways, self._way, self._files = (self._way, self._files), None, None
        for one in ways:
            if one is not None:
                await one.close()
