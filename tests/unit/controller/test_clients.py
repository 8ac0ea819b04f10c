"""What becomes of a sidecar's refusal on its way to whoever asked."""

from __future__ import annotations

import msgspec
import pytest

import checkpoint.api as agent_api
from checkpoint.api import CriuLog, ErrorBody, Problem
from controller.actions import Move
from controller.clients import AgentClient
from controller.core.errors import Answered
from controller.core.phases import Phase
from controller.core.result import CriuLog as ToldLog
from controller.core.result import Problem as Told
from controller.journal import Intent
from controller.outcome import make_result
from tests.harness.stand_ins import stands

DUMP = "POST /v1/outbound/redis-1/dump"
LOG = CriuLog("/pods/a/agent/criu/redis-1.dump.log", ["Error (criu/mem.c:9): Something odd"])
INTENT = Intent("redis-1", "redis", "a", "b", 10, 1 << 20)


@pytest.mark.parametrize("log", [None, LOG])
async def test_what_criu_said_comes_to_the_result_of_the_move(log: CriuLog | None) -> None:
    async with stands("a") as (_, (a,)):
        a.agent.refusals[DUMP] = ErrorBody(Problem("criu-failed", "the dump failed", "machine", "Try again."), log)
        async with AgentClient("agent of pod a", a.pod.agent_socket) as agent:
            with pytest.raises(Answered) as caught:
                await agent.outbound("redis-1", "dump", agent_api.Dumped)
    result = make_result(Move(INTENT, a.pod, a.pod), Phase.ROLLED_BACK, [], caught.value)
    told = None if log is None else ToldLog(log.path, log.lines)
    assert result.error == Told("criu-failed", "agent of pod a: the dump failed", "machine", "Try again.", told)
    assert msgspec.json.decode(msgspec.json.encode(result), type=type(result)) == result
