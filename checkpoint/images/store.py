"""Folders of images on tmpfs, readable by root only, and the proofs that nothing in them changed.

What is proved: the files that the destination read are, byte for byte, those that the source read: the pages as soon as
CRIU had written them, the rest when it was sealed. What is not: that CRIU then reads the same. A write between
the two readings would be root's own, in a folder that nobody else can enter; who can do that can write to the restored
process's memory as well.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checkpoint.api import Beacon
from checkpoint.core import manifest as manifests
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import Manifest, Proof
from checkpoint.engine import Folders
from checkpoint.images import files, gmac
from checkpoint.images.growing import Tags

_BEACON = "beacon"


class Store:
    """All folders of one agent, and the threads that tag."""

    def __init__(self, root: Path) -> None:
        """`root` is made if it is not there; raises AgentError NO_SPACE when it cannot be."""
        self.root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AgentError(Code.NO_SPACE, f"{root} cannot be used for images: {error.strerror}") from error
        self._threads = ThreadPoolExecutor(max(1, os.cpu_count() or 1), "tag")

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def free_bytes(self) -> int:
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def make(self, name: str) -> Folders:
        """Make one migration's folders, empty, 0700."""
        self.remove(name)
        folders = self.folders(name)
        for folder in (self.root / name, folders.images, folders.work):
            folder.mkdir(mode=0o700)
        return folders

    def mark(self, name: str) -> Beacon:
        """Write something beside one migration's folders by which another agent knows whether it sees them too."""
        beacon = Beacon(str(self.root / name / _BEACON), secrets.token_hex(16))
        files.write(beacon.path, beacon.words.encode())
        return beacon

    def folders(self, name: str) -> Folders:
        return Folders(self.root / name / "images", self.root / name / "work")

    def beside(self, name: str) -> Path:
        """Where else one migration may put something; it makes it and takes it away itself."""
        return self.root / f"{name}.files"

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / name, ignore_errors=True)

    async def prove(
        self, folder: Path, key: bytes, sizes: Mapping[str, int], wanted: Iterable[str], begun: Tags | None = None
    ) -> dict[str, Proof]:
        """The proofs of the `wanted` among a folder's files, computed in the threads; `sizes` names all of them, and
        `begun` has the tags of the first chunks of some.

        Raises AgentError IMAGE_DAMAGED for a file that is not what `sizes` says.
        """
        loop = asyncio.get_running_loop()
        begun = begun or {}
        tags = {name: list(begun.get(name, ())) for name in wanted}
        jobs = gmac.plan(sizes, tags, {name: len(some) for name, some in begun.items()})
        running = [loop.run_in_executor(self._threads, gmac.tag, str(folder), key, job) for job in jobs]
        for job, found in zip(jobs, await asyncio.gather(*running), strict=True):
            for span, some in zip(job, found, strict=True):
                tags[span.name] += some
        return {name: Proof(tuple(some), sizes[name]) for name, some in tags.items()}

    async def survey(self, folder: Path, key: bytes, sizes: Mapping[str, int]) -> Manifest:
        """What the files of a folder are now; `sizes` is its `listing`. Raises AgentError IMAGE_DAMAGED."""
        return Manifest(await self.prove(folder, key, sizes, sizes))

    async def seal(
        self, folder: Path, key: bytes, dumped: Mapping[str, int], proved: Mapping[str, Proof]
    ) -> tuple[Manifest, str]:
        """Write the folder's manifest; give it and its digest.

        `dumped` has the names of its files right after the dump, and `proved` what is signed for already: that stands,
        whatever the file has become meanwhile: the destination sees it. Once for each key: a second time would tag what
        may have been edited since with the nonces of the first. Raises AgentError IMAGE_DAMAGED where a file came or
        went.
        """
        manifests.compare_names(dumped, _names(folder))
        rest = [name for name in dumped if name not in proved]
        sizes = {**dumped, **{name: files.size(f"{folder}/{name}") for name in rest}}
        found = Manifest({**proved, **await self.prove(folder, key, sizes, rest)})
        raw = manifests.encode(found)
        files.write(f"{folder}/{manifests.NAME}", raw)
        return found, manifests.digest(raw)


def sees(beacon: Beacon) -> bool:
    """Whether this agent sees the folder in which another has written that."""
    try:
        fd = os.open(beacon.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.read(fd, len(beacon.words) + 1) == beacon.words.encode()
        finally:
            os.close(fd)
    except OSError:
        return False


def listing(folder: Path) -> dict[str, int]:
    """The size of every file of a folder but its manifest. Raises AgentError IMAGE_DAMAGED for what is no file."""
    sizes: dict[str, int] = {}
    with os.scandir(folder) as found:
        for entry in found:
            if not entry.is_file(follow_symlinks=False):
                raise AgentError(Code.IMAGE_DAMAGED, f"{entry.name}, among the images, is no file")
            sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    sizes.pop(manifests.NAME, None)
    return sizes


def _names(folder: Path) -> set[str]:
    with os.scandir(folder) as found:
        return {entry.name for entry in found} - {manifests.NAME}


def everything(folder: Path) -> dict[str, int]:
    """The size of every file of a sealed folder, its manifest too."""
    return {**listing(folder), manifests.NAME: (folder / manifests.NAME).stat().st_size}


def read(folder: Path, digest: str) -> Manifest:
    """The manifest of a folder; raises AgentError IMAGE_DAMAGED when it is not the one with this digest."""
    raw = files.read(f"{folder}/{manifests.NAME}")
    if manifests.digest(raw) != digest:
        raise AgentError(Code.IMAGE_DAMAGED, "the manifest is not the one that was sealed")
    return manifests.decode(raw)
