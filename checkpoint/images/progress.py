"""Which connections CRIU has dumped by now, while it dumps."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from checkpoint.core import manifest
from checkpoint.images.watch import FolderWatch
from checkpoint.kernel import IN_CLOSE_WRITE, Kernel


class Progress:
    """Of one dump, from before it: CRIU writes each connection's image at once, and closes it (criu: sk-tcp.c)."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        """`folder` is where the images come; raises AgentError KERNEL."""
        self._whole: deque[int] = deque()
        self._come = asyncio.Event()
        self._over = False
        self._watch = FolderWatch(kernel, folder, IN_CLOSE_WRITE, self._written)

    async def next(self, most: int) -> list[int]:
        """The inodes of so many connections, in CRIU's order; at the end fewer, and then none."""
        while len(self._whole) < most and not self._over:
            self._come.clear()
            await self._come.wait()
        return [self._whole.popleft() for _ in range(min(most, len(self._whole)))]

    def end(self) -> None:
        """CRIU has ended: no more will come."""
        self._watch.look()
        self.close()

    def forget(self) -> None:
        """CRIU will begin anew: what there is by now is worth nothing."""
        self.close()
        self._whole.clear()

    def close(self) -> None:
        self._watch.close()
        self._over = True
        self._come.set()

    def _written(self, masks: Mapping[str, int]) -> None:
        self._whole.extend(inode for name in masks if (inode := manifest.inode_of(name)) is not None)
        self._come.set()
