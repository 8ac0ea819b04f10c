"""Rounds of a pre-copy at the source, on an engine that is scripted: the chain, and when it is worth nothing."""

from __future__ import annotations

import pytest

from checkpoint.api import PreDump
from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code
from tests.unit.checkpoint.moves.conftest import Scripted, queue_moved


def images_of(migration):
    return sorted(one.name for one in migration._folders.images.iterdir())


async def test_each_round_is_on_top_of_the_one_before_and_the_dump_on_the_last(migrate):
    engine = Scripted(None, None, None)
    migration = await migrate(engine, stop=False)
    first = await migration.predump(PreDump(1))
    assert (first.number, first.then) == (1, "another-round")
    assert (await migration.predump(PreDump(2))).number == 2
    await migration.stop()
    await migration.dump()
    assert engine.parents == ["", "../1", "../rounds/2"]
    assert images_of(migration)[:3] == ["mm-1.img", "round-1.pages-1.img", "round-2.pages-1.img"]


async def test_said_again_it_is_answered_again_and_none_is_left_out(migrate):
    engine = Scripted(None)
    migration = await migrate(engine, stop=False)
    assert await migration.predump(PreDump(1)) == await migration.predump(PreDump(1))
    with pytest.raises(AgentError, match="does not follow"):
        await migration.predump(PreDump(3))
    assert engine.parents == [""]


async def test_one_that_fails_makes_those_before_worthless(migrate):
    """CRIU has told the kernel to forget what was written: what comes next must have everything."""
    engine = Scripted(None, AgentError(Code.NO_SPACE, "full"), None, None)
    migration = await migrate(engine, stop=False)
    await migration.predump(PreDump(1))
    with pytest.raises(AgentError, match="full"):
        await migration.predump(PreDump(2))
    assert (images_of(migration), migration.state) == ([], State.PREPARED)
    await migration.predump(PreDump(1))
    await migration.stop()
    await migration.dump()
    assert engine.parents == ["", "../1", "", "../rounds/1"]


async def test_so_does_a_dump_that_is_made_once_more(migrate):
    engine = Scripted(None, queue_moved(), None)
    migration = await migrate(engine, stop=False)
    await migration.predump(PreDump(1))
    await migration.stop()
    await migration.dump()
    assert engine.parents == ["", "../rounds/1", ""]
    assert not [name for name in images_of(migration) if name.startswith("round-")]


async def test_its_memory_is_tagged_before_the_freeze(migrate):
    migration = await migrate(Scripted(None), stop=False)
    await migration.predump(PreDump(1))
    assert {name: len(tags) for name, tags in migration._rounds.tags.items()} == {"round-1.pages-1.img": 1}


async def test_stopped_there_is_no_other_round(migrate):
    migration = await migrate(Scripted(None))
    with pytest.raises(AgentError) as error:
        await migration.predump(PreDump(1))
    assert error.value.code is Code.WRONG_STATE
