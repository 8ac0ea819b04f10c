"""Work that nobody has to wait for: done a little later, or when what it makes is asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Deferred:
    """In order, and all of it at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: deque[Callable[[], object]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, work: Callable[[], object]) -> None:
        """To be done behind what was added before."""
        self._work.append(work)

    def do_in(self, seconds: float) -> None:
        """Do it in so many seconds, unless that was said before."""
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self.do)

    def do(self) -> None:
        """Now."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._work:
            self._work.popleft()()
