"""Folders of images on tmpfs, readable by root only, and the proofs that nothing in them changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checkpoint.core import manifest as manifests
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import Manifest, Small, Stamp
from checkpoint.engine import Folders

Chunks = dict[str, list[bytes]]

_NICE = 10
"""Hashing is done beside the move, not before it: whatever the move itself needs the processor for goes first."""


class Store:
    """All folders of one agent, and the threads that hash."""

    def __init__(self, root: Path) -> None:
        """`root` is made if it is not there; raises AgentError NO_SPACE when it cannot be."""
        self.root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AgentError(Code.NO_SPACE, f"{root} cannot be made: {error.strerror}") from error
        workers = max(1, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(workers, "hash", initializer=_be_nice)

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

    def folders(self, name: str) -> Folders:
        return Folders(self.root / name / "images", self.root / name / "work")

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / name, ignore_errors=True)

    async def hash(self, paths: Iterable[Path]) -> Chunks:
        """The SHA-256 of every chunk of these files, by their names, computed in the threads."""
        loop = asyncio.get_running_loop()
        chunks: Chunks = {}
        for path in sorted(paths):
            starts = range(0, path.stat().st_size, manifests.CHUNK_BYTES)
            jobs = [loop.run_in_executor(self._threads, _hash_chunk, path, start) for start in starts]
            chunks[path.name] = list(await asyncio.gather(*jobs))
        return chunks

    async def survey(self, folder: Path) -> Manifest:
        """`survey` in a thread: beside a restore."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, survey, folder)


def pages(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if manifests.is_pages(path.name)]


def stamps(folder: Path) -> dict[str, Stamp]:
    """What the kernel says of every file of a folder: two equal answers mean that nothing was written between them."""
    with os.scandir(folder) as listing:
        return {entry.name: _stamp(entry) for entry in listing}


def survey(folder: Path) -> Manifest:
    """Hash the small files and take the bulk's stamps. About 10 us a file and 3 us a kilobyte."""
    found = Manifest()
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.name == manifests.NAME:
                continue
            if manifests.is_bulk(entry.name, entry.stat(follow_symlinks=False).st_size):
                found.bulk[entry.name] = _stamp(entry)
            else:
                raw = Path(entry.path).read_bytes()
                found.small[entry.name] = Small(hashlib.sha256(raw).hexdigest(), len(raw))
    return found


def seal(folder: Path) -> tuple[Manifest, str]:
    """Write the folder's manifest; give it and its digest."""
    found = survey(folder)
    raw = manifests.encode(found)
    (folder / manifests.NAME).write_bytes(raw)
    return found, manifests.digest(raw)


def read(folder: Path, digest: str) -> Manifest:
    """The manifest of a folder; raises AgentError IMAGE_DAMAGED when it is not the one with this digest."""
    try:
        raw = (folder / manifests.NAME).read_bytes()
    except OSError as error:
        raise AgentError(Code.IMAGE_DAMAGED, f"the manifest cannot be read: {error.strerror}") from error
    if manifests.digest(raw) != digest:
        raise AgentError(Code.IMAGE_DAMAGED, "the manifest is not the one that was sealed")
    return manifests.decode(raw)


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    found = entry.stat(follow_symlinks=False)
    return Stamp(found.st_ino, found.st_ctime_ns, found.st_size)


def _hash_chunk(path: Path, start: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return hashlib.sha256(os.pread(file.fileno(), manifests.CHUNK_BYTES, start)).digest()


def _be_nice() -> None:
    """Lower this thread's priority: on Linux a nice value is a thread's own (setpriority(2), C library/kernel differences)."""
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
