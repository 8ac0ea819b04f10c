"""The limit of a hold that lasts: what the peers may add to it (`proxy.core.hold`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from proxy.core import hold
from proxy.core.errors import ProxyError
from proxy.core.flow import State
from proxy.io.context import Context
from proxy.io.source import SourceFlow

log = logging.getLogger(__name__)

LIMIT_SECONDS = 0.5
"""A hold that is shorter is bounded by the receive buffers as they are; most are, and are spared 10 us a flow."""


LISTEN_SECONDS = 0.01
"""All that waits in the adoption socket is taken meanwhile."""


class HoldLimit:
    """One migration's."""

    def __init__(self, context: Context, name: str, flows: Callable[[], Collection[SourceFlow]]) -> None:
        """`flows` gives those that are held by then, and others."""
        self._loop, self._name, self._flows = context.loop, name, flows
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_due(self) -> bool:
        return self._timer is not None

    def begin(self, max_held_bytes: int) -> None:
        """Everything is held: set it in LIMIT_SECONDS, unless the hold is over by then."""
        self._timer = self._loop.call_later(LIMIT_SECONDS, self._listen_first, max_held_bytes)

    def _listen_first(self, max_held_bytes: int) -> None:
        """The proxy may have stood still, and the workload run on since: an agent that has said so is heard first."""
        self._timer = self._loop.call_later(LISTEN_SECONDS, self.set, max_held_bytes)

    def set(self, max_held_bytes: int) -> None:
        """Each flow that is held has its share."""
        self._timer = None
        flows = self._flows()
        share = hold.share(max_held_bytes, len(flows))
        try:
            for flow in flows:
                if flow.state is State.HELD:
                    flow.limit(share)
        except (OSError, ProxyError) as error:  # bounded then by the buffers as they are
            log.warning("the hold of %s has no limit of its own: %s", self._name, error)

    def cancel(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
