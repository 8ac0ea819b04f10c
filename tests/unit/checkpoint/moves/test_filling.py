"""Whoever fetches the memory at the destination: what comes of it when nothing can come."""

from __future__ import annotations

import asyncio

import pytest

from checkpoint.api import EarlyMemory, MemorySource
from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import MigrationRecord
from checkpoint.kernel import Kernel
from checkpoint.memory.ways import Giving
from checkpoint.moves.filling import Filling
from checkpoint.moves.surroundings import Surroundings
from tests.harness.moving import until

KEY = bytes(32)


@pytest.fixture
async def begin(tmp_path):
    """A migration's, with this way for its memory, prepared, and its record."""
    around = Surroundings(Kernel(), None, None, None, "", lambda: None, None, lambda name: None)

    async def make(way: str) -> tuple[Filling, MigrationRecord]:
        record = MigrationRecord("m", "w", "destination", State.WAITING, memory=way)
        made.append(Filling(around, record))
        await made[-1].prepare(KEY, tmp_path)
        return made[-1], record

    made: list[Filling] = []
    yield make
    for one in made:
        await one.close()


async def test_all_of_it_before_the_commit_or_the_restore_has_failed(begin):
    filling, record = await begin("stop-and-copy")
    assert (filling.lazily, filling.later) == (True, False)
    assert record.pager is not None
    securing = asyncio.create_task(filling.secure())
    await asyncio.sleep(0)
    assert not securing.done(), "nothing has come"
    filling.abort()
    with pytest.raises(AgentError) as caught:
        await securing
    assert caught.value.code is Code.TRANSFER_BROKEN
    filling.abort()  # nothing is left to break off


async def test_later_it_is_enough_that_nobody_can_read_zeros_meanwhile(begin):
    filling, _ = await begin("post-copy")
    assert (filling.lazily, filling.later) == (True, True)
    filling.abort()
    with pytest.raises(AgentError) as caught:
        await filling.secure()
    assert caught.value.code is Code.MEMORY_LOST


async def test_what_is_sent_before_the_freeze_is_taken_until_nothing_can_come_any_more(begin, tmp_path):
    filling, _ = await begin("stop-and-copy")
    giving = await Giving.start(Kernel(), KEY, "127.0.0.1")
    try:
        await giving.early([])
        wanted = EarlyMemory(MemorySource("127.0.0.1", giving.port), 1 << 20)
        await until(lambda: filling.take_early(wanted).early == "there", "it does not come")
    finally:
        await giving.close()

    def is_over() -> bool:
        try:
            filling.take_early(wanted)
        except AgentError as error:
            return error.code is Code.TRANSFER_BROKEN and "could not be sent before the freeze" in str(error)
        return False

    await until(is_over, "it does not find out that there is nobody any more")


async def test_post_copy_has_nothing_sent_before_the_freeze(begin):
    filling, _ = await begin("post-copy")
    with pytest.raises(AgentError) as caught:
        filling.take_early(EarlyMemory(MemorySource("127.0.0.1", 1), 1 << 20))
    assert caught.value.code is Code.WRONG_STATE


async def test_where_it_is_among_the_images_nothing_is_waited_for(tmp_path):
    filling = Filling(
        Surroundings(Kernel(), None, None, None, "", lambda: None, None, lambda name: None),
        MigrationRecord("m", "w", "destination", State.WAITING),
    )
    assert (filling.lazily, filling.later) == (False, False)
    await filling.secure()
    filling.abort()
    assert filling.memory(State.RESTORED, "").state == "complete"
