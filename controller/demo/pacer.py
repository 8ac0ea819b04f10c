"""Gives every connection its turn, evenly spread over the period, so that the load is a stream and not a drumbeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from controller.demo.exchange import Asker
from controller.demo.wire import Wire

GRAIN_SECONDS = 0.002
"""How often turns are given: finer costs processor time, coarser makes bursts. (libuv's timers count milliseconds.)"""


class Pacer:
    """Round and round: in each period every wire has one turn, unless it still waits for too many replies.

    A turn that is missed is not made up for: after a freeze the load goes on at its pace.
    """

    def __init__(self, wires: Sequence[tuple[Wire, Asker]], period_seconds: float, window: int) -> None:
        self._wires, self._period, self._window = wires, period_seconds, window
        self._next = 0
        self._credit = 0.0
        self._at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._at = time.monotonic()
        if self._wires:
            self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(GRAIN_SECONDS, self._tick)

    def _tick(self) -> None:
        self._arm()
        now = time.monotonic()
        count = len(self._wires)
        self._credit = min(count, self._credit + (now - self._at) * count / self._period)
        self._at = now
        while self._credit >= 1:
            self._credit -= 1
            wire, asker = self._wires[self._next]
            self._next = (self._next + 1) % count
            if asker.pending < self._window and asker.open:
                wire.send(asker.turn(time.monotonic()))
