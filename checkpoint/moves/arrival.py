"""How the images come: their folder is seen here, or they are received, or fetched from an archive."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from checkpoint.api import FetchImages, Packed, ReceiveImages, Reserved, ReserveRoom, RestoreWorkload
from checkpoint.api import Receiving as ReceivingAnswer
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Machine
from checkpoint.kernel import Kernel
from checkpoint.transfer.receiving import Receiving
from checkpoint.transfer.reserve import Reserve
from checkpoint.transfer.storing import Fetching, files_image


class Arrival:
    """One migration's; `own` is its folder for what is not seen here, `beside` where files come before the freeze."""

    def __init__(self, migration: str, own: Path, beside: Path, here: Machine, kernel: Kernel) -> None:
        self._migration, self._own, self._beside, self._here = migration, own, beside, here
        self._fetching = Fetching()
        self._receiving: Receiving | None = None
        self._reserve = Reserve(own, kernel)
        self._files: Receiving | None = None

    def listen(self, key: bytes, wanted: ReceiveImages) -> ReceivingAnswer:
        """Have them received, or the workload's files. Asked again it is answered again. Raises AgentError."""
        if not wanted.files:
            self._receiving = self._receiving or Receiving(key, wanted.host, self._own, self._reserve)
            return ReceivingAnswer(self._receiving.port, str(self._own))
        self._beside.mkdir(mode=0o700, exist_ok=True)
        self._files = self._files or Receiving(key, wanted.host, self._beside)
        return ReceivingAnswer(self._files.port, str(self._beside))

    def reserve(self, wanted: ReserveRoom) -> Reserved:
        """Have room for the images taken; asked again, how far that is. Raises AgentError NO_SPACE."""
        self._reserve.begin(wanted)
        return self._reserve.state()

    async def files(self, wanted: Packed) -> Path:
        """Where the workload's files are; nobody writes them from now on. Raises AgentError."""
        if wanted.stored is not None:
            self._beside.mkdir(mode=0o700, exist_ok=True)
            await self._fetching.fetch(files_image(self._migration), wanted.stored, self._beside, self._here)
            return self._beside
        await self.hang_up()
        return Path(wanted.folder)

    async def hang_up(self) -> None:
        """No more files."""
        if self._files is not None:
            await self._files.close()

    async def clear(self) -> None:
        """The files that came are where they belong, or are not wanted."""
        await asyncio.to_thread(shutil.rmtree, self._beside, ignore_errors=True)

    async def folder(self, wanted: RestoreWorkload) -> Path:
        """Where they are; from now on nobody writes to it. Raises AgentError."""
        if wanted.images:
            return Path(wanted.images)
        if wanted.stored is not None:
            await self._fetching.fetch(self._migration, wanted.stored, self._own, self._here)
            return self._own
        if self._receiving is None:
            raise AgentError(Code.WRONG_STATE, "no images were received")
        await self._receiving.close()
        await asyncio.to_thread(self._reserve.settle)
        # What was not needed goes beside what follows: the workload stands still.
        asyncio.get_running_loop().run_in_executor(None, self._reserve.close)
        return self._own

    async def try_archive(self, wanted: FetchImages) -> None:
        """Before the freeze: whether they could be fetched from there. Raises AgentError."""
        await self._fetching.try_out(self._migration, wanted)

    def stop(self) -> None:
        """Break off what is being fetched."""
        self._fetching.stop()

    async def close(self) -> None:
        if self._receiving is not None:
            await self._receiving.close()
        await asyncio.to_thread(self._reserve.close)
        await self.hang_up()
        await self.clear()
