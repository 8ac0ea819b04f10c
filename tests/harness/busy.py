"""Clients that work while a workload moves: each of their answers is right, before, during and after it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Self

from controller.core.result import MigrationResult
from tests.harness.journeys import moved
from tests.harness.moving import Scene

ENOUGH, PATIENCE_SECONDS = 10, 30.0


class Busy:
    """Asks again and again in a thread of its own, as a context. `ask` is given the number of the question, and fails
    where the answer is wrong."""

    PAUSE_SECONDS = 0.005

    def __init__(self, ask: Callable[[int], object]) -> None:
        self._ask = ask
        self._answers, self._trouble = 0, ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="busy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._trouble, self._trouble

    def _run(self) -> None:
        for number in count(1):
            try:
                self._ask(number)
            except Exception as error:
                self._trouble = f"question {number}: {error!r}"
                return
            self._answers = number
            if self._stop.wait(self.PAUSE_SECONDS):
                return

    async def goes_on(self) -> None:
        """Until some more has been answered."""
        wanted, deadline = self._answers + ENOUGH, time.monotonic() + PATIENCE_SECONDS
        while self._answers < wanted:
            assert not self._trouble, self._trouble
            assert time.monotonic() < deadline, f"no answer after {self._answers}"
            await asyncio.sleep(0.01)


async def moved_while_asked(stage: Scene, name: str, ask: Callable[[int], object]) -> MigrationResult:
    """From a to b, with nothing lost, while a client asks."""
    with Busy(ask) as busy:
        await busy.goes_on()
        result = await moved(stage, name)
        await busy.goes_on()
    return result
