"""A controller that is killed in the midst of a migration, and another that ends what it began."""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

from controller import journal
from tests.harness.clients import Echo
from tests.harness.interposer import Spoil, between
from tests.harness.moving import PORT, Scene


class Killed(NamedTuple):
    """In which phase; which call hangs then: to a pod's agent or proxy, its method, the end of its path; and who has
    the workload in the end."""

    phase: str
    pod: str
    party: str
    method: str
    ending: str
    owner: str
    spare: int = 0
    """So many such calls come before it."""


async def killed_controller(stage: Scene, killed: Killed, memory: str = "stop-and-copy") -> None:
    """Moves the test server from a to b with a controller that is killed, and resumes."""
    phase, owner = killed.phase, killed.owner
    await stage.run_server()
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(2)]
    pod = {"a": stage.a, "b": stage.b}[killed.pod]
    async with between(pod.agent_socket if killed.party == "agent" else pod.proxy_socket) as interposer:
        interposer.spoil(killed.method, killed.ending, Spoil.HANG, killed.spare)
        if phase == "RollingBack":
            interposer.spoil("POST", "/seal", Spoil.REFUSE)
        controller = await stage.start_midstream("migrate", "server", "--to", "b", "--memory", memory)
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


async def journal_in(stage: Scene, phase: str) -> str:
    """Until the journal says that `phase` has begun; the migration's name."""
    for _ in range(3000):
        found = journal.read_all(stage.lab.home / "migrations")[0]
        for record in found:
            if record.phase.value == phase:
                return record.intent.migration
        await asyncio.sleep(0.01)
    raise AssertionError(f"never in {phase}, but in {[record.phase.value for record in found]}")
