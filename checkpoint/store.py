"""Folders of images on tmpfs, readable by root only, and the proofs that nothing in them changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checkpoint import files
from checkpoint.core import manifest as manifests
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import Manifest, Small, Stamp
from checkpoint.engine import Folders

Chunks = dict[str, list[bytes]]

_PROBES = 8


class Store:
    """All folders of one agent, and the threads that hash."""

    def __init__(self, root: Path, *, hash_bulk: bool = False) -> None:
        """`root` is made if it is not there; raises AgentError NO_SPACE when it cannot be."""
        self.root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.hash_bulk = hash_bulk or not _stamps_are_fine(root)
        except OSError as error:
            raise AgentError(Code.NO_SPACE, f"{root} cannot be used for images: {error.strerror}") from error
        self._threads = ThreadPoolExecutor(max(1, os.cpu_count() or 1), "hash")

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

    async def hash(self, paths: Iterable[str]) -> Chunks:
        """The SHA-256 of every chunk of these files, by their names, computed in the threads."""
        loop = asyncio.get_running_loop()
        chunks: Chunks = {}
        for path in sorted(paths):
            starts = range(0, _size(path), manifests.CHUNK_BYTES)
            jobs = [loop.run_in_executor(self._threads, _hash_chunk, path, start) for start in starts]
            chunks[Path(path).name] = list(await asyncio.gather(*jobs))
        return chunks

    async def survey_aside(self, folder: Path) -> Manifest:
        """`survey` in a thread: beside a restore."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, survey, folder)


def stamps(folder: Path) -> dict[str, Stamp]:
    """What the kernel says of every file of a folder: two equal answers mean that nothing was written between them."""
    with os.scandir(folder) as listing:
        return {entry.name: _stamp(entry.stat(follow_symlinks=False)) for entry in listing}


def survey(folder: Path) -> Manifest:
    """Hash the small files and take the bulk's stamps. About 10 us a file and 3 us a kilobyte."""
    found = Manifest()
    for name, stamp in stamps(folder).items():
        if name == manifests.NAME:
            continue
        if manifests.is_bulk(name, stamp.size):
            found.bulk[name] = stamp
        else:
            raw = files.read(f"{folder}/{name}")
            found.small[name] = Small(hashlib.sha256(raw).hexdigest(), len(raw))
    return found


def seal(folder: Path, dumped: dict[str, Stamp]) -> tuple[Manifest, str]:
    """Write the folder's manifest; give it and its digest.

    `dumped` holds stamps taken as soon as CRIU had written its files; raises AgentError IMAGE_DAMAGED when a page file
    has been written to since.
    """
    found = survey(folder)
    for name, stamp in found.bulk.items():
        if manifests.is_pages(name) and dumped.get(name) != stamp:
            raise AgentError(Code.IMAGE_DAMAGED, f"the file {name} changed after it was dumped")
    raw = manifests.encode(found)
    files.write(f"{folder}/{manifests.NAME}", raw)
    return found, manifests.digest(raw)


def read(folder: Path, digest: str) -> Manifest:
    """The manifest of a folder; raises AgentError IMAGE_DAMAGED when it is not the one with this digest."""
    raw = files.read(f"{folder}/{manifests.NAME}")
    if manifests.digest(raw) != digest:
        raise AgentError(Code.IMAGE_DAMAGED, "the manifest is not the one that was sealed")
    return manifests.decode(raw)


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_ino, found.st_ctime_ns, found.st_size)


def _size(path: str) -> int:
    return Path(path).stat().st_size


def _hash_chunk(path: str, start: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return hashlib.sha256(os.pread(file.fileno(), manifests.CHUNK_BYTES, start)).digest()


def _stamps_are_fine(root: Path) -> bool:
    """True where a write always moves the change time, however soon it follows a look at it.

    Linux has had such times on tmpfs since 6.13 (K: fs/inode.c, inode_set_ctime_current, FS_MGTIME in mm/shmem.c);
    before, they moved with the timer tick, and a write within the same tick did not show. Tried, not assumed.
    """
    path = root / f".stamp-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        seen = set()
        for _ in range(_PROBES):
            os.pwrite(fd, b"x", 0)
            seen.add(os.fstat(fd).st_ctime_ns)
        return len(seen) == _PROBES
    finally:
        os.close(fd)
        path.unlink()
