"""The plain bytes of one object: those of some files, one behind the other, hashed as they are read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checkpoint.core.container import CHUNK_BYTES
from checkpoint.core.errors import AgentError, Code


class Source:
    """Chunks of at most CHUNK_BYTES, each of one file. For one thread; SHA-256, the slow part, has its own."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], hashing: ThreadPoolExecutor) -> None:
        """`sizes` names the files in their order."""
        self.digests: dict[str, str] = {}
        self._folder, self._sizes, self._hashing = folder, sizes, hashing
        self._left = sum(sizes.values())
        self._chunks = self._read()

    def chunk(self) -> tuple[bytes, bool]:
        """The next chunk, and whether it is the last. Raises AgentError IMAGE_DAMAGED for a file that changed."""
        chunk = next(self._chunks, b"")
        self._left -= len(chunk)
        if not self._left:
            for _ in self._chunks:  # files without a byte, and the end of the last one
                raise AssertionError("bytes behind the end")
        return chunk, not self._left

    def close(self) -> None:
        self._chunks.close()

    def _read(self) -> Generator[bytes, None, None]:  # a generator: what it has open is closed with it
        for name, size in self._sizes.items():
            digest = hashlib.sha256()
            for chunk in self._file(name, size):
                hashed = self._hashing.submit(digest.update, chunk)
                yield chunk
                hashed.result()
            self.digests[name] = digest.hexdigest()

    def _file(self, name: str, size: int) -> Iterator[bytes]:
        try:
            fd = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise AgentError(Code.IMAGE_DAMAGED, f"the image {name} cannot be read: {error.strerror}") from error
        try:
            for start in range(0, size, CHUNK_BYTES):
                wanted = min(CHUNK_BYTES, size - start)
                chunk = os.pread(fd, wanted, start)
                if len(chunk) != wanted:
                    raise AgentError(Code.IMAGE_DAMAGED, f"the file {name} changed while it was read")
                yield chunk
        finally:
            os.close(fd)
