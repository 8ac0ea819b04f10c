"""The thread that claims urgency goes before others, and nobody else does."""

from __future__ import annotations

import os
import threading

from checkpoint.memory import urgency


def test_it_is_the_threads_own_and_stands_back_until_it_claims_again():
    seen: list[int] = []

    def claim() -> None:
        for do in (urgency.step_back, urgency.claim, urgency.step_back, urgency.claim):
            do()
            seen.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=claim)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread.start()
    thread.join()
    assert seen == [before, urgency.NICE, urgency.BACK, urgency.NICE]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_while_somebody_waits_it_is_a_real_time_task_and_not_afterwards():
    said: list[tuple[int, int]] = []
    mine = urgency.Urgency(lambda _, policy, parameters: said.append((policy, parameters.sched_priority)))
    for waits in (False, True, True, False):
        mine.someone_waits(waits)
    assert said == [(os.SCHED_RR, 1), (os.SCHED_OTHER, 0)]


def test_where_that_is_not_allowed_it_goes_on_as_it_is():
    def refuse(*_: object) -> None:
        raise PermissionError

    urgency.Urgency(refuse).someone_waits(True)
