"""The thread that claims urgency goes before others, and nobody else does."""

from __future__ import annotations

import os
import threading

from checkpoint.memory import urgency


def test_it_is_the_threads_own():
    seen: list[int] = []

    def claim() -> None:
        urgency.claim()
        seen.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=claim)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread.start()
    thread.join()
    assert seen == [urgency.NICE]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
