"""Whether the workload that was moved still lives: asked of the proxy where it is, which answers when it does not.

The connection carries nothing meanwhile. Where it breaks it is made again, for as long as there is somebody who wants
to know. Nothing but that one answer means the end: a proxy that was started anew knows nothing of the migration, and
the workload may live none the less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.errors import Code
from proxy.core.wire import Watch
from proxy.io.context import Context
from proxy.io.dialling import DialledConnection, Lost
from proxy.io.pool import LinkPool

ENDED = Code.WORKLOAD_ENDED.name.lower()


class EndWatch:
    """Of one workload; `ended` is called once, when it has ended."""

    SOONEST_SECONDS, LATEST_SECONDS = 0.25, 5.0
    """Before it asks for the first time, for the repointed flows come first, and between later ones."""

    def __init__(self, context: Context, links: LinkPool, ended: Callable[[], None]) -> None:
        self._context = context
        self._links = links
        self._ended = ended
        self._dialled: DialledConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._interval = self.SOONEST_SECONDS
        self._later()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._dialled:
            self._links.withdraw(self, self._dialled)
        self._timer = self._dialled = None

    def _later(self) -> None:
        self._timer = self._context.loop.call_later(self._interval, self._ask)
        self._interval = min(2 * self._interval, self.LATEST_SECONDS)

    def _ask(self) -> None:
        self._timer = None
        self._links.ask(Watch(), self, fresh=True)

    def link_dialled(self, dialled: DialledConnection) -> None:
        self._dialled = dialled

    def link_sendable(self, dialled: DialledConnection) -> None:
        """Nothing is sent."""

    def link_accepted(self, received: int, rest: bytes) -> None:
        """No acceptor says that."""
        if self._dialled and self._dialled.connection:
            self._context.poller.forget(self._dialled.connection)
            self._dialled.connection.close()
        self.link_lost(Lost("an answer out of turn"))

    def link_lost(self, lost: Lost) -> None:
        self._dialled = None
        if lost.refusal == ENDED:
            self._ended()
        else:
            self._later()
