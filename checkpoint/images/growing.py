"""Tags the pages of a dump while CRIU writes them, in a thread: on a processor that is idle then, and not afterwards,
when the workload would wait for it.

CRIU appends to these files (criu: page-xfer.c), so a megabyte that is whole stays as it is. Of a dump that is made once
more the earlier one's tags, with the same nonces, are forgotten: a tag leaves this machine only in the manifest.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint import aligned
from checkpoint.core import manifest

LOOK_SECONDS = 0.004
"""So often it is looked what there is by now: CRIU writes some megabytes meanwhile. inotify(7) would tell of each of
its writes, a hundred in a millisecond."""

Tags = dict[str, list[bytes]]
"""By file, the tags of its first chunks."""


class Growing:
    """One dump's, from before CRIU writes it."""

    def __init__(self, folder: Path, key: bytes, known: Tags | None = None) -> None:
        """`known`: of files that are there already."""
        self._folder, self._cipher = folder, AESGCM(key)
        self._buffer = aligned.room(manifest.CHUNK_BYTES)
        self.tags: Tags = {name: list(tags) for name, tags in (known or {}).items()}
        """Its own until the end."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tag the pages", daemon=True)
        self._thread.start()

    def end(self) -> Tags:
        """What was tagged. Blocks for as long as one chunk takes."""
        self._over.set()
        self._thread.join()
        return self.tags

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            with contextlib.suppress(OSError):  # a dump that fails empties the folder; else it is read once more
                for name, size in self._sizes():
                    self._tag(name, size)

    def _sizes(self) -> Iterator[tuple[str, int]]:
        """CRIU numbers them, from 1 on (criu: image.c, open_pages_image_at): a thousand other files need no look."""
        with contextlib.suppress(FileNotFoundError):
            for number in count(1):
                name = f"pages-{number}.img"
                yield name, os.lstat(self._folder / name).st_size

    def _tag(self, name: str, size: int) -> None:
        tags = self.tags.setdefault(name, [])
        place = manifest.place_of_pages(name)
        fd = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            while len(tags) < size // manifest.CHUNK_BYTES and not self._over.is_set():
                chunk = len(tags)
                if os.preadv(fd, [self._buffer], chunk * manifest.CHUNK_BYTES) < manifest.CHUNK_BYTES:
                    return
                tags.append(self._cipher.encrypt(manifest.nonce(place, chunk), b"", self._buffer))
        finally:
            os.close(fd)
