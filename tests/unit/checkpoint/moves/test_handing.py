"""Whoever gives the memory at the source: what is on record of it, and how long it lives."""

from __future__ import annotations

import pytest

from checkpoint.core.custody import State
from checkpoint.core.journal import MigrationRecord
from checkpoint.kernel import Kernel
from checkpoint.moves.handing import Handing
from checkpoint.moves.surroundings import Surroundings

KEY = bytes(32)


@pytest.fixture
async def begin():
    """A migration's, with this way for its memory, and its record."""
    around = Surroundings(Kernel(), None, None, None, "", lambda: None, None, lambda name: None)

    def make(way: str) -> tuple[Handing, MigrationRecord]:
        record = MigrationRecord("m", "w", "source", State.PREPARED, memory=way, readdress={"127.0.0.1": "10.0.0.2"})
        made.append(Handing(around, record))
        return made[-1], record

    made: list[Handing] = []
    yield make
    for one in made:
        await one.close()


async def test_one_that_gives_before_the_commit_is_on_no_record_and_is_not_waited_for(begin):
    handing, record = begin("stop-and-copy")
    assert handing.port == 0
    giving = await handing.start(KEY)
    assert await handing.start(KEY) is giving
    assert handing.port == giving.port > 0
    assert (handing.after, record.pager) == (None, None)
    await handing.commit()
    await handing.close()
    assert (handing.port, handing.giving) == (0, None)


async def test_one_that_gives_after_the_commit_can_be_found_by_the_next_agent(begin):
    handing, record = begin("post-copy")
    giving = await handing.start(KEY)
    assert handing.after is giving
    assert record.pager == giving.identity
    await handing.commit()
