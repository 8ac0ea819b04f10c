"""Who is asked about connections that are made ahead; `tests/system/connections/test_pairs.py` makes some."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

import checkpoint.api as agent_api
from checkpoint.api import ErrorBody, Problem
from controller.pairs import Pairs
from controller.parties import Parties
from proxy.api import LegsBuilt
from tests.harness.stand_ins import Stand, stands

FORESEE, SPARE, COMPARE = (f"POST /v1/outbound/m/{verb}" for verb in ("foresee", "pair", "compare"))
AHEAD, MAKE, ADJUST = (f"POST /v1/inbound/m/{verb}" for verb in ("ahead", "pair", "adjust"))
FORESEEN = agent_api.Connections(msgspec.Raw(b"[]"), [agent_api.Socket(2, 0, (0, 0), [], reuse_address=False)])
CHANGED = agent_api.Changes([agent_api.Changed(7, [], 1)])
CUSTODY = agent_api.Custody("m", "w", "source", "prepared")


@pytest.fixture
async def pods() -> AsyncIterator[list[Stand]]:
    async with stands("a", "b") as (_, made):
        a, b = made
        a.agent.answers = {FORESEE: FORESEEN, SPARE: CUSTODY, COMPARE: CHANGED}
        b.agent.answers = {MAKE: agent_api.Paired([7]), ADJUST: CUSTODY}
        b.proxy.answers = {AHEAD: LegsBuilt(1)}
        yield made


async def all_of_it(pods: list[Stand]) -> list[str]:
    """From the first call to the last; which calls were made."""
    a, b = pods
    async with Parties(a.pod, b.pod) as parties:
        pairs = Pairs(parties, "m", 5)
        for step in (pairs.foresee, pairs.make, pairs.spare, pairs.compare, pairs.adjust):
            await step()
    return [*a.agent.calls, *b.proxy.calls, *b.agent.calls]


async def test_everybody_is_asked_about_those_that_stand(pods: list[Stand]) -> None:
    assert await all_of_it(pods) == [FORESEE, SPARE, COMPARE, AHEAD, MAKE, ADJUST]


async def test_where_there_are_none_nobody_else_is(pods: list[Stand]) -> None:
    pods[0].agent.answers[FORESEE] = agent_api.Connections(msgspec.Raw(b"[]"), [])
    assert await all_of_it(pods) == [FORESEE]


async def test_where_they_cannot_be_made_they_go_by_their_images(pods: list[Stand]) -> None:
    del pods[1].agent.answers[MAKE]
    pods[1].agent.refusals[MAKE] = ErrorBody(Problem("full", "no descriptor is left", "machine"))
    assert await all_of_it(pods) == [FORESEE, AHEAD, MAKE]


async def test_what_has_not_changed_is_not_told(pods: list[Stand]) -> None:
    pods[0].agent.answers[COMPARE] = agent_api.Changes([])
    assert ADJUST not in await all_of_it(pods)


async def test_what_is_forgotten_is_let_go_of_and_stands_no_more(pods: list[Stand]) -> None:
    a, b = pods
    async with Parties(a.pod, b.pod) as parties:
        pairs = Pairs(parties, "m", 5)
        await pairs.forget()
        for step in (pairs.foresee, pairs.make, pairs.forget, pairs.spare, pairs.compare):
            await step()
    assert [body for call, body in b.proxy.asked if call == AHEAD] == [{"legs": []}, {"legs": []}]
    assert a.agent.calls == [FORESEE]
