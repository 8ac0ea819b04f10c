"""Everything that stands in a move's way is gathered from all four before anything is touched."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator

import msgspec
import pytest

import checkpoint.api as agent_api
import proxy.api as proxy_api
from controller.core.errors import Unreachable
from controller.core.hold import judged
from controller.core.plan import Plan
from controller.core.predict import Rates
from controller.core.transfer import Transfer
from controller.journal import Intent
from controller.parties import Parties
from controller.preflight import facts_of, preflight
from tests.harness.stand_ins import Stand, stands

MIB = 1 << 20
WORKLOAD = agent_api.Workload("w", 20_001, ["server"], "running")
INSPECTION = agent_api.Inspection(WORKLOAD, [20_001], 5 * MIB, 3, [80], [])
HERE = importlib.metadata.version("midstream")
AGENT = agent_api.Health(HERE, "4.2.1", "6.12", "x86_64")
PROXY = proxy_api.Health(HERE, 64901, ["NET_ADMIN"], 0, 0, 0)
INTENT = Intent("m", "w", "a", "b", 10.0, MIB)
INSPECT = "GET /v1/workloads/w"


@pytest.fixture
async def pods() -> AsyncIterator[tuple[Stand, Stand]]:
    """In whose way nothing stands."""
    async with stands("a", "b") as (_, (a, b)):
        for one in (a, b):
            one.agent.answers["GET /healthz"], one.proxy.answers["GET /healthz"] = AGENT, PROXY
        a.agent.answers[INSPECT] = INSPECTION
        b.agent.answers["GET /v1/room"] = agent_api.Room(1 << 40, 1 << 40, [1], [])
        b.proxy.answers["GET /v1/listeners"] = []
        yield a, b


async def plan_of(pods: tuple[Stand, Stand], intent: Intent = INTENT) -> Plan:
    a, b = pods
    async with Parties(a.pod, b.pod) as parties:
        return await preflight(parties, intent, Rates(1e9))


async def test_a_plan_that_nothing_stands_in_the_way_of(pods: tuple[Stand, Stand]) -> None:
    plan = await plan_of(pods)
    assert plan.problems == []
    assert (plan.source, plan.destination, plan.pid, plan.connections) == ("a", "b", 20_001, 3)
    assert plan.readdress[pods[0].pod.address] == pods[1].pod.address
    assert plan.memory is not None
    assert plan.memory.way == "stop-and-copy"
    assert facts_of(pods[0].pod).address6 == pods[0].pod.address6


async def test_all_four_are_asked_and_whatever_each_says_is_on_the_list(pods: tuple[Stand, Stand]) -> None:
    a, b = pods
    lock = agent_api.Problem("lock-held", "a lock", "request")
    a.agent.answers[INSPECT] = msgspec.structs.replace(INSPECTION, problems=[lock])
    b.agent.answers["GET /v1/room"] = agent_api.Room(1 << 40, 1 << 40, [20_001], [])
    b.agent.answers["GET /healthz"] = msgspec.structs.replace(AGENT, architecture="aarch64")
    a.proxy.answers["GET /healthz"] = msgspec.structs.replace(PROXY, spare_descriptors=5)
    b.proxy.answers["GET /healthz"] = msgspec.structs.replace(PROXY, cleartext_links=True, version="99.1")
    plan = await plan_of(pods, msgspec.structs.replace(INTENT, memory="post-copy"))
    assert {one.code for one in plan.problems} == {
        "lock-held", "pids-taken", "architecture-differs", "links-differ", "no-descriptors", "post-copy-unavailable",
        "version-differs",
    }  # fmt: skip


async def test_room_for_images_is_asked_for_by_the_way_that_is_chosen(pods: tuple[Stand, Stand]) -> None:
    pods[1].agent.answers["GET /v1/room"] = agent_api.Room(1 << 40, 8 * MIB, [1], [])
    assert [one.code for one in (await plan_of(pods)).problems] == ["no-room"]
    able = msgspec.structs.replace(AGENT, memory=agent_api.MemoryFeatures(1 << 40))
    for one in pods:
        one.agent.answers["GET /healthz"] = able
    assert (await plan_of(pods, msgspec.structs.replace(INTENT, memory="post-copy"))).problems == []


async def test_a_hold_too_short_for_the_wire_stands_in_the_way_where_it_is_known_that_images_go_over_it(
    pods: tuple[Stand, Stand],
) -> None:
    slow = Transfer("direct", bytes_per_second=5000)
    plan = await plan_of(pods, msgspec.structs.replace(INTENT, transfer=slow))
    assert [one.code for one in plan.problems] == ["hold-too-short"]
    intent = msgspec.structs.replace(INTENT, transfer=Transfer("auto", bytes_per_second=5000))
    plan = await plan_of(pods, intent)
    assert plan.problems == []
    assert [one.code for one in judged(plan, intent.transfer, intent.max_hold_seconds, direct=True).problems] == [
        "hold-too-short"
    ]


async def test_losses_stand_in_the_way_unless_they_are_allowed(pods: tuple[Stand, Stand]) -> None:
    loss = agent_api.Problem("connection-state", "urgent data", "request")
    pods[0].agent.answers[INSPECT] = msgspec.structs.replace(INSPECTION, losses=[loss])
    assert [one.code for one in (await plan_of(pods)).problems] == ["connection-state"]
    assert (await plan_of(pods, msgspec.structs.replace(INTENT, allow_loss=True))).problems == []


async def test_folders_that_are_named_are_inspected_too(pods: tuple[Stand, Stand]) -> None:
    a, _ = pods
    named = f"{INSPECT}?with=/data"
    a.agent.answers[named] = INSPECTION
    await plan_of(pods, msgspec.structs.replace(INTENT, files=agent_api.Files(["/data"])))
    assert named in a.agent.calls


async def test_who_does_not_answer_is_named(pods: tuple[Stand, Stand]) -> None:
    pods[1].agent.answers["GET /v1/room"] = "what?"
    with pytest.raises(Unreachable, match="agent of pod b answered /v1/room with something else"):
        await plan_of(pods)
