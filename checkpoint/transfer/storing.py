"""Images by way of an archive: the source's end writes them there when they are sealed, the destination's reads them.

The same objects as a checkpoint's (`checkpoint.archive`), under the migration's name: sealed with a key of their own,
`ready` last. The workload stands still meanwhile, so the hold is the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from checkpoint.api import DeleteImage, FetchImages, StoreImages, TransferReport
from checkpoint.archive import archivist
from checkpoint.archive.orders import Read, Try, Write, WriteDone
from checkpoint.core import manifest as tags
from checkpoint.core.errors import AgentError
from checkpoint.core.stored import MAX_NAME, Machine, Manifest
from checkpoint.transfer.shipment import closed

KEPT_SECONDS = 3600.0
"""For a migration whose end nobody came to see: then `midstream images gc` may take its images away."""

_DELETE_SECONDS = 10.0
"""An archive that does not answer keeps nobody waiting: the migration is over."""

_LOG = logging.getLogger(__name__)

_FILES = "files."


def files_image(migration: str) -> str:
    """The name that the workload's files have in the archive, as short as a name must be."""
    return f"{_FILES}{migration[len(_FILES) - MAX_NAME :]}"


_PROOF = "proof"
"""What the folder's own manifest is called in the archive, whose manifest is another."""


class Storing:
    """One migration's, in place of `Sending`."""

    def __init__(self, folder: Path, wanted: StoreImages, draft: Callable[[], Manifest]) -> None:
        """`draft` is asked when the images are sealed."""
        self._folder, self._wanted, self._draft = folder, wanted, draft
        self._upload: asyncio.Task[WriteDone] | None = None
        self._problem: AgentError | None = None
        self._image = ""
        """What there may be something of in the archive."""

    async def try_out(self) -> None:
        """Before the freeze: whether they could be stored, as things are; for the destination to try it too.
        Raises AgentError."""
        image = self._draft().image
        await archivist.carry_out(Try(self._wanted.archive, self._wanted.key, image, "writer"), type(None))
        self._image = image

    def watch(self) -> None:
        """Nothing is stored before it is sealed: an archive's objects are written once."""

    async def offer(self, sizes: Mapping[str, int]) -> None:
        """Nor then."""

    def restart(self) -> None:
        """Nothing has been stored."""

    def check(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def finish(self, sizes: Mapping[str, int]) -> TransferReport:
        """Store the sealed folder. Raises AgentError."""
        self.check()
        with contextlib.suppress(FileNotFoundError):  # the workload's files are proved by their list's digest
            (self._folder / _PROOF).hardlink_to(self._folder / tags.NAME)
        draft, one = self._draft(), self._wanted
        self._image = draft.image
        order = Write(one.archive, one.key, str(self._folder), draft, KEPT_SECONDS, one.deadline_seconds, "auto")
        began = time.monotonic()
        self._upload = asyncio.create_task(archivist.carry_out(order, WriteDone), name="store the images")
        done = await _unless_stopped(self._upload, lambda: self._problem)
        seconds = time.monotonic() - began
        return TransferReport("store", sum(sizes.values()), done.stored_bytes, seconds, 1)

    def stop(self, problem: AgentError) -> None:
        """Break it off, for this reason."""
        self._problem = self._problem or problem
        if self._upload is not None:
            self._upload.cancel()

    async def close(self) -> None:
        """Take away what is stored, whole or not: it has been read, or nobody wants it."""
        if self._upload is not None:
            self._upload.cancel()
            await asyncio.wait({self._upload})
            self._upload = None
        if self._image:
            await self._delete()
            self._image = ""

    async def _delete(self) -> None:
        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                await archivist.carry_out(DeleteImage(self._wanted.archive, self._image, force=True), type(None))
        except (AgentError, TimeoutError) as error:
            _LOG.warning("%s: its images are left in the archive: %s", self._image, error)


class Fetching:
    """The destination's end."""

    def __init__(self) -> None:
        self._download: asyncio.Task[Manifest] | None = None

    async def try_out(self, image: str, wanted: FetchImages) -> None:
        """Before the freeze: whether what the source tried to store there is found, and opens. Raises AgentError."""
        await archivist.carry_out(Try(wanted.archive, wanted.key, image, "reader"), type(None))

    async def fetch(self, image: str, wanted: FetchImages, folder: Path, here: Machine) -> None:
        """Into `folder`, which is empty. Raises AgentError."""
        folder.rmdir()  # noqa: ASYNC240 - the archive program makes it, and leaves none where it fails
        order = Read(wanted.archive, wanted.key, image, str(folder), here, 0.0, wanted.deadline_seconds)
        work: Coroutine[Any, Any, Manifest] = archivist.carry_out(order, Manifest)
        self._download = asyncio.create_task(work, name="fetch the images")
        await _unless_stopped(self._download, lambda: None)
        with contextlib.suppress(FileNotFoundError):
            (folder / _PROOF).rename(folder / tags.NAME)

    def stop(self) -> None:
        if self._download is not None:
            self._download.cancel()


async def _unless_stopped(work: asyncio.Task[Any], why: Callable[[], AgentError | None]) -> Any:
    """What `work` gives; where somebody cancelled it, `why`, or TRANSFER_BROKEN. If we are cancelled, so is it."""
    try:
        await asyncio.wait({work})
    except asyncio.CancelledError:
        work.cancel()
        raise
    if work.cancelled():
        raise why() or closed()
    return work.result()
