"""Between agents that may do more and less: a copy can be given no capability that its agent has not."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from checkpoint.core.errors import Code
from controller import preflight
from controller.lab import programs
from controller.lab.pod import Pod
from tests.harness.journeys import Puppet, start_puppet
from tests.harness.moving import ONE_LOOP, Scene

pytestmark = ONE_LOOP

LACKING = "lease"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def poor(standing: Scene) -> AsyncIterator[Pod]:
    """A pod whose agent has all capabilities but one."""
    really = programs.sidecars

    def sidecars(pod: Pod) -> list[dict]:
        proxy, agent = really(pod)
        without = ["/usr/bin/setpriv", "--bounding-set", f"-{LACKING}", "--inh-caps", f"-{LACKING}"]
        return [proxy, agent | {"argv": [*without, *agent["argv"]]}]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "sidecars", sidecars)
        made = await standing.lab.create("poor")
    yield made
    await standing.lab.delete("poor")


async def test_what_its_agent_cannot_give_is_named_before_anything_is_touched(stage: Scene, poor: Pod) -> None:
    await start_puppet(stage)
    status, out, _ = await stage.midstream("migrate", "puppet", "--to", "poor", "--dry-run", "-o", "json")
    assert status != 0
    (problem,) = json.loads(out)["problems"]
    assert problem["code"] == "capabilities-differ"
    assert "the workload has CAP_LEASE, which the agent of pod poor has not" in problem["message"]


async def test_a_restore_that_stands_still_is_given_up_at_once(
    stage: Scene, poor: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has told beforehand: CRIU's tasks say BUG, and wait."""
    monkeypatch.setattr(preflight, "too_few_capabilities", lambda *_: [])
    told: Puppet = await start_puppet(stage)
    began = time.monotonic()
    result = await stage.move("puppet", destination=poor, max_hold_seconds=100)
    assert result.outcome == "rolled-back"
    assert result.error is not None
    assert result.error.code == Code.NO_CAPABILITY.value
    assert time.monotonic() - began < 60
    assert told.do("1 + 1") == 2
