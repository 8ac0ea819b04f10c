from __future__ import annotations

import pytest

from checkpoint.core.custody import Event
from checkpoint.core.errors import AgentError, Code
from checkpoint.moves.ahead import Ahead


class Steps:
    def __init__(self, failing: Event | None = None) -> None:
        self.done: list[Event] = []
        self.error = AgentError(Code.PROXY_REFUSED, "no")
        self.ahead = Ahead({event: self.step(event) for event in (Event.DUMP, Event.ADOPT, Event.SEAL)})
        self.failing = failing

    def step(self, event: Event):
        async def work() -> None:
            if event is self.failing:
                raise self.error
            self.done.append(event)

        return work


async def test_one_step_follows_the_other() -> None:
    steps = Steps()
    await steps.ahead.go()
    assert steps.done == [Event.DUMP, Event.ADOPT, Event.SEAL]
    for event in steps.done:
        steps.ahead.heed(event)


async def test_the_step_that_failed_is_the_last_and_says_so_once() -> None:
    steps = Steps(failing=Event.ADOPT)
    await steps.ahead.go()
    assert steps.done == [Event.DUMP]
    steps.ahead.heed(Event.DUMP)
    steps.ahead.heed(Event.SEAL)
    with pytest.raises(AgentError) as raised:
        steps.ahead.heed(Event.ADOPT)
    assert raised.value is steps.error
    steps.ahead.heed(Event.ADOPT)
