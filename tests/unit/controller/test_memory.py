"""What the agents are asked about memory that is in no image."""

from __future__ import annotations

import pytest

from checkpoint.api import EarlyMemory, Memory, MemorySource
from controller.core.choose import Choice
from controller.core.errors import Answered, MemoryLost
from controller.memory import look, send_early

GIB = 1 << 30
SOURCE = MemorySource("10.0.0.1", 9)
EARLY = Choice("stop-and-copy", 0.6, 3.0, straight=True, early_limit_bytes=GIB)


class Agent:
    """The destination's: what it is asked, and what it says of the memory."""

    def __init__(self, answer: Memory | Answered) -> None:
        self.asked: list[object] = []
        self._answer = answer

    async def inbound(self, migration: str, verb: str, answer: type[Memory], body: EarlyMemory) -> Memory:
        self.asked.append((migration, verb, body))
        return await self.memory(migration)

    async def memory(self, _: str) -> Memory:
        if isinstance(self._answer, Answered):
            raise self._answer
        return self._answer


async def test_it_is_sent_before_the_freeze_up_to_what_there_is_room_for():
    agent = Agent(Memory("waiting", early="coming"))
    assert await send_early("m", agent, EARLY, SOURCE) == Memory("waiting", early="coming")
    assert agent.asked == [("m", "early", EarlyMemory(SOURCE, GIB))]


@pytest.mark.parametrize(
    ("choice", "source"),
    [(EARLY, None), (Choice("stop-and-copy", 1, 1, straight=True), SOURCE), (Choice("post-copy", 1, 1), SOURCE)],
)
async def test_what_does_not_go_so_is_not_asked_for(choice, source):
    agent = Agent(Memory("waiting"))
    assert await send_early("m", agent, choice, source) is None
    assert agent.asked == []


async def test_a_migration_that_is_forgotten_has_all_of_its_memory():
    forgotten = Agent(Answered(404, "unknown", "", "request"))
    assert await look("m", Agent(Memory("fetching")), None) == Memory("fetching")
    assert await look("m", forgotten, None) == Memory("complete")
    assert await look("m", forgotten, Memory("waiting", early_bytes=5)) == Memory("complete", early_bytes=5)
    with pytest.raises(Answered):
        await look("m", Agent(Answered(500, "broken", "", "midstream")), None)
    with pytest.raises(MemoryLost):
        await look("m", Agent(Memory("lost", "The source is gone")), None)
