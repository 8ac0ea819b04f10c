"""The lease: from the stop on a workload stands still for as long as was promised, and not longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from checkpoint.kernel import Kernel


class Lease:
    """Calls `expire` once, when it has run out."""

    def __init__(self, kernel: Kernel, expire: Callable[[], None]) -> None:
        self._kernel, self._expire = kernel, expire
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, deadline: float | None) -> None:
        """It runs out at `deadline`, on the kernel's clock (`core.custody` knows it)."""
        assert deadline is not None
        delay = max(0.0, deadline - self._kernel.now())
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
