"""Pre-copy: memory is copied round after round while the workload runs, and only the rest inside the freeze.

Where the kernel does not track what a process writes, in the pod `a` of these tests it seems to: what a kernel with
CONFIG_MEM_SOFT_DIRTY would say to CRIU is said by `tests.harness.soft_dirty`. All else is real: CRIU's feature check,
its pre-dumps, the dump on top of them, and the restore from the chain. The pod `b` has the kernel as it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from checkpoint.api import Archive, PreDump, PreDumped, PrepareOutbound
from checkpoint.core.precopy import LOG
from checkpoint.statefile import StateFile
from controller.clients import AgentClient
from controller.core.errors import Answered
from controller.core.transfer import Transfer
from controller.transfer import Depot
from tests.harness import soft_dirty
from tests.harness.clients import Echo
from tests.harness.keys import key_file
from tests.harness.killing import Killed, killed_controller
from tests.harness.moving import ONE_LOOP, PORT, scene, until
from tests.harness.sidecars import AGENT, running
from tests.harness.solo_agent import CRIU
from tests.harness.values import VALUE_BYTES, Data

pytestmark = ONE_LOOP

VALUES = 16


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """A CRIU for which the kernel tracks what is written."""
    return soft_dirty.program(tmp_path_factory.mktemp("criu"), CRIU)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing(tracking):
    """In place of the other tests' scene: the kernel of `a` tracks what is written."""
    async with scene(source_criu=tracking) as made:
        yield made


@pytest.fixture
def untracked():
    if soft_dirty.tracked(CRIU):
        pytest.skip("this kernel tracks what is written")


@pytest.mark.parametrize("way", ["shared", "direct", "store"])
async def test_what_is_written_between_two_rounds_arrives_too(stage, tmp_path, way):
    await stage.run_redis()
    data = await asyncio.to_thread(Data, stage, VALUES)

    def prepare(driver):
        """After each round one value becomes another: the later rounds have the page anew."""
        driver.observer.round = lambda number, *_: data.write(number)

    depot = Depot(Archive(str(tmp_path / "archive")), key_file(tmp_path / "key"))
    result = await stage.move("redis", memory="pre-copy", transfer=Transfer(way), depot=depot, prepare=prepare)
    assert (result.outcome, result.memory.way, result.memory.fell_back) == ("succeeded", "pre-copy", ""), result.error
    first, *others = result.memory.rounds
    assert others, "there are two rounds at least"
    assert first.bytes > VALUES * VALUE_BYTES > max(one.bytes for one in others) > VALUE_BYTES, result.memory.rounds
    await asyncio.to_thread(data.check)


async def test_rounds_in_vain_end_in_another_way(stage):
    await stage.run_server()

    def prepare(driver):
        """That they are is decided by how fast things go; here it is said."""
        rounds = driver.move.rounds
        driver.observer.round = lambda *_: rounds.append(replace(rounds.pop(), then="fall-back", reason="in vain"))

    result = await stage.move("server", memory="pre-copy", prepare=prepare)
    assert (result.outcome, result.memory.way) == ("succeeded", "stop-and-copy"), result.error
    assert result.memory.fell_back == "pre-copy was given up: in vain"
    assert [phase.name for phase in result.phases[2:6]] == ["Preparing", "PreCopying", "Preparing", "Stopping"]


async def test_cancelled_between_two_rounds_it_runs_on_where_it_was(stage):
    await stage.run_server()

    def prepare(driver):
        driver.observer.round = lambda *_: driver.cancel()

    result = await stage.move("server", memory="pre-copy", prepare=prepare)
    assert (result.outcome, result.error.code, result.freeze_seconds) == ("rolled-back", "cancelled", 0.0)
    assert "PreCopying" in [phase.name for phase in result.phases]
    await stage.answers(PORT)


async def test_the_controller_is_killed_between_two_rounds(stage):
    await killed_controller(stage, Killed("PreCopying", "a", "agent", "POST", "/predump", "a"), "pre-copy")


async def test_an_agent_killed_inside_a_round_leaves_the_workload_where_it_was(mended):
    """CRIU goes on without it, and the next agent waits for its end: CRIU's log is a pipe that nobody reads before."""
    await mended.run_server()
    client = Echo(mended.client, mended.a.address, PORT)
    victim = running(mended.a, AGENT)
    logs = []

    def prepare(driver):
        driver.observer.phase_started = lambda name, _: name == "PreCopying" and logs.append(pipe_for_log(mended.a))

    moving = asyncio.create_task(mended.move("server", memory="pre-copy", prepare=prepare))
    await until(lambda: criu_at_work(mended.a), "CRIU is not asked")
    os.kill(victim, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{victim}").exists(), "the agent does not end")
    fd = os.open(logs[0], os.O_RDONLY | os.O_NONBLOCK)
    result = await moving
    os.close(fd)
    assert result.outcome == "rolled-back", result.error
    assert (await mended.workloads(mended.a))["server"].state == "running"
    await asyncio.to_thread(client.finish)


def pipe_for_log(pod) -> Path:
    """In place of the log of CRIU's next pre-dump: it waits there until somebody reads."""
    (work,) = Path(pod.images).glob("*/work")
    os.mkfifo(work / LOG)
    return work / LOG


def criu_at_work(pod) -> bool:
    """Whether the agent has written down that it waits for a CRIU."""
    with closing(StateFile(Path(pod.directory) / "agent" / "state.json")) as file:
        return any(one.helper for one in file.load().migrations)


@pytest.mark.usefixtures("untracked")
async def test_where_the_kernel_does_not_track_the_plan_names_another_way(stage):
    await stage.run("sleeper", "/usr/bin/sleep", "600", pod=stage.b)
    order = ("migrate", "sleeper", "--to", "a", "--memory", "pre-copy", "--dry-run", "-o", "json")
    status, out, _ = await stage.midstream(*order)
    choice = json.loads(out)["memory"]
    assert (status, choice["way"]) == (0, "stop-and-copy")
    assert "CONFIG_MEM_SOFT_DIRTY is off" in choice["fell_back"]


@pytest.mark.usefixtures("untracked")
async def test_and_crius_own_refusal_is_told_in_words(stage):
    workload = await stage.run("sleeper", "/usr/bin/sleep", "600", pod=stage.b)
    async with AgentClient("agent of b", stage.b.agent_socket) as agent:
        order = PrepareOutbound(workload.name, {}, 10, "00" * 32, memory="pre-copy")
        await agent.prepare_outbound("asked-anyway", order)
        try:
            with pytest.raises(Answered, match="CONFIG_MEM_SOFT_DIRTY is off") as refused:
                await agent.outbound("asked-anyway", "predump", PreDumped, PreDump(1))
            assert refused.value.code == "memory-way"
        finally:
            await agent.forget("outbound", "asked-anyway")
