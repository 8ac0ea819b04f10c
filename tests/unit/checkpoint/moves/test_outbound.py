"""The source's side where CRIU itself does not decide: a dump to be tried again, on an engine that is scripted."""

from __future__ import annotations

import pytest

from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code
from checkpoint.moves.dumping import DUMP_TRIES
from tests.unit.checkpoint.moves.conftest import Scripted, queue_moved


async def test_a_dump_that_a_peers_bytes_spoilt_is_made_again(migrate):
    engine = Scripted(queue_moved(), None)
    migration = await migrate(engine)
    assert (await migration.dump()).processes == 1
    assert engine.prepared == 2
    assert migration.state is State.DUMPED


async def test_but_not_for_ever(migrate):
    engine = Scripted(*(queue_moved() for _ in range(DUMP_TRIES)))
    migration = await migrate(engine)
    with pytest.raises(AgentError) as error:
        await migration.dump()
    assert error.value.code is Code.QUEUE_MOVED
    assert migration.state is State.STOPPED


async def test_and_not_for_another_cause(migrate):
    engine = Scripted(AgentError(Code.NO_SPACE, "full"), None)
    migration = await migrate(engine)
    with pytest.raises(AgentError, match="full"):
        await migration.dump()
    assert len(engine.endings) == 1
