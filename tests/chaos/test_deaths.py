"""A part of Midstream is killed while the workload stands still: the workload goes on, and its clients lose nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
import pytest_asyncio

from controller import pairs
from controller.clients import AgentClient
from controller.core.phases import Phase
from tests.harness.clients import Echo
from tests.harness.interposer import Spoil
from tests.harness.journeys import at_phase
from tests.harness.moving import ONE_LOOP, PORT, SERVER, scene, spoilt, until, within
from tests.harness.sidecars import AGENT, PROXY, running, sidecar

pytestmark = ONE_LOOP


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing():
    async with scene() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def stage(standing):
    """With the test server in a."""
    await standing.run_server()
    yield standing
    await standing.mend()


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
    for _ in range(600):
        if not await stage.flows(stage.b):
            break
        await asyncio.sleep(0.05)
    assert await stage.flows(stage.b) == []


LOST_AFTER_THE_COMMIT = {
    "the source's proxy": ("a", PROXY),
    "the source pod": ("a", ""),
    "the destination's proxy": ("b", PROXY),
}


@pytest.mark.parametrize("who", list(LOST_AFTER_THE_COMMIT))
async def test_who_has_the_connections_is_lost_after_the_commit(stage, monkeypatch, who):
    """The move goes through without them, and says so; both ends of each hear that it is over."""
    monkeypatch.setattr(pairs, "FEWEST_PAIRS", 1)
    clients = [served(stage) for _ in range(2)]
    name, module = LOST_AFTER_THE_COMMIT[who]
    pod = {"a": stage.a, "b": stage.b}[name]
    late = at_phase(Phase.STOPPING, lambda: clients.append(served(stage)))  # by its image, and without a link
    async with spoilt(stage.move("server", prepare=late), stage.b.agent_socket, "/resume") as (moving, interposer):
        await lose(pod, module)
        interposer.release.set()
        result = await asyncio.wait_for(moving, 60)
    assert (result.outcome, result.error.code) == ("succeeded", "flows-lost"), result.error
    assert (result.flows.adopted, result.flows.lost) == (3, 3)
    assert (await stage.workloads(stage.b))["server"].state == "running"
    await until(lambda: not established(stage.b), "the workload waits for peers that are gone")
    if pod.alive:
        for client in clients:
            assert verdict(client) in ("ended", "reset")
    assert not await stage.flows(stage.b)
    await stage.answers(PORT, stage.b)


@pytest.mark.parametrize("committed", [True, False])
async def test_the_source_pod_in_the_commit(stage, committed):
    """Its agent has given the workload up, or has not: the copy runs on, or there is none; no answer was heard."""
    client = served(stage)
    how = Spoil.SWALLOW if committed else Spoil.HANG
    async with spoilt(stage.move("server"), stage.a.agent_socket, "/commit", how) as (moving, interposer):
        async with asyncio.timeout(30):
            while committed == ("server" in await stage.workloads(stage.a)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await lose(stage.a, "")
        interposer.release.set()
        result = await asyncio.wait_for(moving, 60)
    there = await stage.workloads(stage.b)
    if committed:
        assert (result.outcome, result.error.code) == ("succeeded", "flows-lost"), result.error
        assert there["server"].state == "running"
        await until(lambda: not established(stage.b), "the workload waits for a peer that is gone")
        await stage.answers(PORT, stage.b)
    else:
        assert (result.outcome, result.error.code) == ("failed", "unreachable"), result.error
        assert there == {}
        assert sidecar(stage.b, str(SERVER)) is None, "the copy is still there"
        assert not await stage.flows(stage.b)
    client.close()


def served(stage) -> socket.socket:
    """A client that the workload has answered."""
    client = stage.connect(stage.client, stage.a.address, PORT)
    client.sendall(b"Ehello")
    assert client.recv(5) == b"hello"
    return client


async def lose(pod, module: str) -> None:
    """A sidecar, in whose place there is another one then; or without `module` the pod."""
    victim = running(pod, module) if module else pod.pid1
    os.kill(victim, signal.SIGKILL)
    if module:
        await until(lambda: sidecar(pod, module) not in (None, victim) and listens_at(pod.proxy_socket), "no other one")
    else:
        await until(lambda: not pod.alive, "the pod does not end")


def listens_at(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def established(pod) -> str:
    return within(pod, "ss", "-tnH", "state", "established", f"sport = :{PORT}")


def verdict(client: socket.socket) -> str:
    try:
        return "ended" if client.recv(1) == b"" else "speaks"
    except ConnectionResetError:
        return "reset"


STANDS_STILL = {
    "the source's, before the adoption": ("a", "a", "/stop", "dumped"),
    "the source's, in the hold": ("a", "b", "/restore", "sealed"),
    "the destination's": ("b", "a", "/stop", "sealed"),
}
"""Whose proxy; the call to whose agent is about to be made then; and where the source's agent is when it is taken back.
"""


@pytest.mark.parametrize("when", list(STANDS_STILL))
async def test_a_proxy_that_stands_still_keeps_no_workload_from_going_on(stage, when):
    """And does no harm to it, or to its connections, when it goes on itself."""
    whose, party, ending, state = STANDS_STILL[when]
    pods, drivers, client = {"a": stage.a, "b": stage.b}, [], served(stage)
    proxy = running(pods[whose], PROXY)
    move = stage.move("server", max_hold_seconds=60, prepare=drivers.append)
    async with spoilt(move, pods[party].agent_socket, ending) as (moving, interposer):
        os.kill(proxy, signal.SIGSTOP)
        try:
            if ending == "/stop":
                interposer.release.set()
            await until_state(stage.a, state)
            drivers[0].cancel()
            client.settimeout(20)
            client.sendall(b"asked")
            assert await asyncio.to_thread(client.recv, 5, socket.MSG_WAITALL) == b"asked"
        finally:
            os.kill(proxy, signal.SIGCONT)
            interposer.release.set()
        assert (await moving).outcome == "rolled-back"
    client.sendall(b"again")
    assert await asyncio.to_thread(client.recv, 5, socket.MSG_WAITALL) == b"again"
    assert not await stage.flows(stage.a)
    client.close()
    result = await stage.move("server")
    assert result.outcome == "succeeded", result.error


async def until_state(pod, state: str) -> None:
    """Of the migration, as the agent there has it."""
    async with asyncio.timeout(30), AgentClient("agent", pod.agent_socket) as agent:
        while [one.state for one in await agent.migrations()] != [state]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
