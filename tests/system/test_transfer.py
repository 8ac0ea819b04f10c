"""Moves whose images go from agent to agent, over connections of their own, as CRIU writes them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import checkpoint.api as agent_api
from controller.clients import AgentClient
from controller.core.transfer import Transfer
from controller.transfer import Depot
from tests.harness.clients import Echo
from tests.harness.moving import PORT, scene, until
from tests.harness.sidecars import AGENT, running

IMAGE_BYTES = 256 << 20


@pytest.fixture
async def stage():
    """Pods that keep their images on a tmpfs each, as machines would."""
    async with scene(image_bytes=IMAGE_BYTES) as made:
        yield made


async def test_there_and_back_again(stage, tmp_path):
    await stage.run_server()
    streaming = [Echo(stage.client, stage.a.address, PORT) for _ in range(4)]
    for source, destination in ((stage.a, stage.b), (stage.b, stage.a)):
        result = await stage.move("server", source, destination)
        assert result.outcome == "succeeded", result.error
        assert result.transfer is not None
        assert (result.transfer.way, result.transfer.retries) == ("direct", 0)
        assert result.transfer.bytes >= result.transfer.wire_bytes > 100_000
    result = await stage.move("server", transfer=Transfer("shared"))
    assert (result.outcome, result.error.code) == ("rolled-back", "folder-not-shared"), result.error
    for each in streaming:
        await asyncio.to_thread(each.finish)
    await by_way_of_an_archive(stage, tmp_path)


async def by_way_of_an_archive(stage, tmp_path) -> None:
    """What is not there, or cannot be written to, takes the move back."""
    key = key_file(tmp_path / "key")
    (tmp_path / "file").touch()
    for place, refusal in (("archive", None), ("file/archive", "archive-refused")):
        depot = Depot(agent_api.Archive(str(tmp_path / place)), key)
        result = await stage.move("server", transfer=Transfer("store"), depot=depot, max_hold_seconds=60)
        if refusal is None:
            assert (result.outcome, result.transfer and result.transfer.way) == ("succeeded", "store"), result.error
            stage.a, stage.b = stage.b, stage.a
        else:
            assert (result.outcome, result.error.code) == ("rolled-back", refusal), result.error
    assert (await stage.workloads(stage.a))["server"].state == "running"
    assert not [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]


def key_file(path: Path) -> agent_api.KeySource:
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    return agent_api.KeySource(file=str(path))


async def test_a_wire_too_slow_for_the_hold_and_agents_killed_while_they_stream(stage):
    """Each time the workload goes on where it was, and no client notices more than that."""
    await stage.run_server()
    client = Echo(stage.client, stage.a.address, PORT)
    slow = Transfer("direct", bytes_per_second=20_000)
    result = await stage.move("server", transfer=slow, max_hold_seconds=0.4)
    assert (result.outcome, result.error.code) == ("rolled-back", "lease-expired"), result.error
    for pod in (stage.b, stage.a):
        moving = asyncio.create_task(stage.move("server", transfer=slow, max_hold_seconds=3))
        await streaming(stage.a)
        victim = running(pod, AGENT)
        os.kill(victim, signal.SIGKILL)
        result = await moving
        assert result.outcome == "rolled-back", result.error
        await until(lambda victim=victim: not Path(f"/proc/{victim}").exists(), "the agent does not end")
        assert (await stage.workloads(stage.a))["server"].state == "running"
    assert (await stage.move("server")).outcome == "succeeded"
    await asyncio.to_thread(client.finish)


async def streaming(pod) -> None:
    """Until the last of the images is being sent."""
    async with AgentClient("source", pod.agent_socket) as agent:
        deadline = asyncio.get_running_loop().time() + 10
        while not any(one.state == "adopted" for one in await agent.migrations()):
            assert asyncio.get_running_loop().time() < deadline, "no images are sent"
            await asyncio.sleep(0.01)
