"""The controller is killed in every phase; a new one ends what it began: back before the commit, forward behind it."""

from __future__ import annotations

import asyncio
import json

import pytest

from controller import journal
from tests.harness.clients import Echo
from tests.harness.interposer import Spoil, between
from tests.harness.moving import ONE_LOOP, PORT

# phase -> the call that hangs when the controller is killed, and where the workload must run in the end
KILLED_IN = {
    "Preflight": ("b", "agent", "GET", "/v1/room", "a"),  # the second such call: the first comes before the journal
    "Preparing": ("b", "agent", "PUT", "", "a"),
    "Stopping": ("a", "agent", "POST", "/stop", "a"),
    "Checkpointing": ("a", "agent", "POST", "/dump", "a"),
    "Adopting": ("a", "agent", "POST", "/adopt", "a"),
    "Transferring": ("b", "proxy", "POST", "/legs", "a"),
    "Restoring": ("b", "agent", "POST", "/restore", "a"),
    "Committing": ("a", "agent", "POST", "/commit", "b"),
    "Repointing": ("b", "agent", "POST", "/resume", "b"),
    "Draining": ("a", "proxy", "GET", "/ledger", "b"),
    "RollingBack": ("a", "agent", "POST", "/release", "a"),
}


pytestmark = ONE_LOOP


@pytest.mark.parametrize("phase", list(KILLED_IN))
async def test_the_controller_is_killed(stage, phase):
    where, party, method, ending, owner = KILLED_IN[phase]
    await stage.run_server()
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(2)]
    pod = {"a": stage.a, "b": stage.b}[where]
    async with between(pod.agent_socket if party == "agent" else pod.proxy_socket) as interposer:
        interposer.spoil(method, ending, Spoil.HANG, spare=1 if phase == "Preflight" else 0)
        if phase == "RollingBack":
            interposer.spoil("POST", "/seal", Spoil.REFUSE)
        controller = await stage.start_midstream("migrate", "server", "--to", "b", "--memory", "stop-and-copy")
        await asyncio.wait_for(interposer.reached.wait(), 60)
        migration = await journal_in(stage, phase)
        controller.kill()
        await controller.communicate()
        interposer.heal()
        # A call that was under way when the controller died may still be carried out, or not at all: both must be safe.
        interposer.release.set()
        assert journal.read(stage.lab.home / "migrations" / f"{migration}.jsonl").interrupted
        status, out, err = await stage.midstream("resume", migration, "-o", "json")
    result = json.loads(out)
    assert result["outcome"] == ("succeeded" if owner == "b" else "rolled-back"), (out, err)
    assert status in ((0,) if owner == "b" else (1, 3))
    for client in clients:
        await asyncio.to_thread(client.finish)
    running = [
        name
        for name, pod in (("a", stage.a), ("b", stage.b))
        if (await stage.workloads(pod)).get("server", None) is not None
    ]
    assert running == [owner]


async def journal_in(stage, phase):
    """Until the journal says that `phase` has begun; the migration's name."""
    for _ in range(500):
        for record in journal.read_all(stage.lab.home / "migrations"):
            if record.phase.value == phase:
                return record.intent.migration
        await asyncio.sleep(0.01)
    raise AssertionError(f"never in {phase}")
