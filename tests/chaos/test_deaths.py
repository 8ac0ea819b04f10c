"""A part of Midstream is killed while the workload stands still: the workload goes on, and its clients lose nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.harness.clients import Echo
from tests.harness.moving import PORT, scene, spoilt, until
from tests.harness.sidecars import AGENT, PROXY, running


@pytest.fixture
async def stage():
    async with scene() as made:
        await made.run_server()
        yield made


async def killed_during_the_hold(stage, pod, module):
    """Moves; kills the sidecar when the destination is about to build the app legs; the migration's result."""
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(3)]
    victim = running(pod, module)
    async with spoilt(stage.move("server"), stage.b.proxy_socket, "/legs") as (moving, interposer):
        os.kill(victim, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{victim}").exists(), "the sidecar does not end")
        interposer.release.set()
        result = await moving
    for client in clients:
        await asyncio.to_thread(client.finish)
    assert (await stage.workloads(stage.a))["server"].state == "running"
    return result


async def test_the_sources_proxy(stage):
    result = await killed_during_the_hold(stage, stage.a, PROXY)
    assert result.outcome == "rolled-back", result.error


async def test_the_sources_agent(stage):
    """The pod starts another one, which finds the migration in its state file and takes it back."""
    result = await killed_during_the_hold(stage, stage.a, AGENT)
    assert result.outcome == "rolled-back", result.error


async def test_the_destinations_agent(stage):
    result = await killed_during_the_hold(stage, stage.b, AGENT)
    assert result.outcome == "rolled-back", result.error
    assert "server" not in await stage.workloads(stage.b)


async def test_the_destination_pod(stage):
    """All of it, as when a node is lost."""
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(3)]
    async with spoilt(stage.move("server"), stage.b.proxy_socket, "/legs") as (moving, interposer):
        os.kill(stage.b.pid1, signal.SIGKILL)
        await until(lambda: not stage.b.alive, "the pod does not end")
        interposer.release.set()
        result = await moving
    for client in clients:
        await asyncio.to_thread(client.finish)
    assert result.outcome == "rolled-back", result.error
    assert (await stage.workloads(stage.a))["server"].state == "running"


async def test_the_sources_proxy_after_the_move_is_noticed_before_the_links_deadline(stage):
    """A new one is started in its pod, which knows of no links: so the workload need not wait for them."""
    client = stage.connect(stage.client, stage.a.address, PORT)
    client.sendall(b"Ehello")
    result = await stage.move("server", max_hold_seconds=600)
    assert result.outcome == "succeeded", result.error
    assert client.recv(5) == b"hello"
    os.kill(running(stage.a, PROXY), signal.SIGKILL)
    for _ in range(400):
        if not await stage.flows(stage.b):
            break
        await asyncio.sleep(0.05)
    assert await stage.flows(stage.b) == []
