"""What becomes of a sidecar's refusal on its way to whoever asked."""

from __future__ import annotations

import msgspec
import pytest

import checkpoint.api as agent_api
from checkpoint.api import CriuLog, ErrorBody, Problem
from controller.actions import Move
from controller.clients import AgentClient, ProxyClient, unless_gone
from controller.core.errors import Answered, Unreachable
from controller.core.phases import Phase
from controller.core.result import CriuLog as ToldLog
from controller.core.result import Problem as Told
from controller.journal import Intent
from controller.outcome import make_result
from tests.harness.stand_ins import stands

DUMP = "POST /v1/outbound/redis-1/dump"
LOG = CriuLog("/pods/a/agent/criu/redis-1.dump.log", ["Error (criu/mem.c:9): Something odd"])
LEDGER = "GET /v1/outbound/redis-1/ledger"
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


async def test_of_a_sidecar_that_was_started_anew_and_of_a_pod_that_is_gone_nothing_is_learnt() -> None:
    async with stands("a") as (_, (a,)):
        gone = msgspec.structs.replace(a.pod, complete=False)
        async with ProxyClient("proxy of pod a", a.pod.proxy_socket) as proxy:
            assert await unless_gone(a.pod, proxy.ledger("outbound", "redis-1")) is None  # unknown
            a.proxy.answers[LEDGER] = []
            assert await unless_gone(a.pod, proxy.ledger("outbound", "redis-1")) == []
            a.proxy.answers[LEDGER] = "nonsense"
            with pytest.raises(Unreachable):
                await unless_gone(a.pod, proxy.ledger("outbound", "redis-1"))
            assert await unless_gone(gone, proxy.ledger("outbound", "redis-1")) is None
