"""Memory that is sent before the freeze: Redis is written to all the while, and something breaks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import pytest

from checkpoint.memory import scan
from controller.core.transfer import Transfer
from controller.migrate import Driver
from proxy.api import LINK_PORT
from tests.harness.helpers import copies, helpers
from tests.harness.moving import ONE_LOOP, until, within
from tests.harness.values import Data

pytestmark = [
    *ONE_LOOP,
    pytest.mark.skipif(not scan.is_known(), reason="this kernel does not say which pages there are"),
]

MEBIBYTES = 72
SLOWLY, SLOWER = (Transfer("direct", bytes_per_second=rate) for rate in (120e6, 10e6))
"""Half a second for all of it, and more than seven: something can happen meanwhile."""


def once_some_has_come(act: Callable[[], None]) -> Callable[[Driver], None]:
    """For a move: do this as soon as some of the memory has been sent ahead."""

    def prepare(driver: Driver) -> None:
        def early(arrived_bytes: int, whole: bool) -> None:
            if arrived_bytes > 1 << 20 and acts:
                acts.pop()()

        acts = [act]
        driver.observer.early = early  # type: ignore[method-assign]

    return prepare


async def test_what_is_written_meanwhile_is_right_at_the_end_although_a_connection_breaks_and_a_taker_dies(stage):
    await stage.run_redis()
    data = await asyncio.to_thread(Data, stage, MEBIBYTES)
    over = threading.Event()
    writing = asyncio.create_task(asyncio.to_thread(data.keep_writing, over))

    def end_taker() -> None:
        for pid in helpers(stage.b, "taker"):
            os.kill(pid, signal.SIGKILL)

    def cut() -> None:
        within(stage.b, "ss", "-K", "-tn", f"( dst {stage.a.address} and not dport = :{LINK_PORT} )")

    try:
        result = await stage.move("redis", transfer=SLOWER, prepare=once_some_has_come(end_taker))
        assert (result.outcome, result.error.code) == ("rolled-back", "transfer-broken"), result.error
        assert result.freeze_seconds == 0
        await until(lambda: not helpers(stage.a, "giver") + helpers(stage.b, "taker"), "a helper is left")
        result = await stage.move("redis", transfer=SLOWLY, max_hold_seconds=20, prepare=once_some_has_come(cut))
    finally:
        over.set()
        written = await writing
    assert result.outcome == "succeeded", result.error
    assert written > 0
    assert result.memory.early_bytes > MEBIBYTES << 19
    assert 0 < result.memory.again_bytes < result.memory.fetched_bytes
    await asyncio.to_thread(data.check)
    assert len(copies(stage.a, stage.b)) == 1
