"""Whatever goes wrong before the commit: the workload goes on where it was, and its clients lose nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import pytest_asyncio

from controller.core.errors import EXIT_ROLLED_BACK
from controller.core.phases import Phase
from tests.harness.clients import Echo
from tests.harness.interposer import DESTINATION_REFUSES, Spoil, between
from tests.harness.moving import ONE_LOOP, PORT, REDIS_PORT, ask, spoilt, until

pytestmark = ONE_LOOP


@pytest_asyncio.fixture(loop_scope="session")
async def unharmed(stage):
    """For tests after which the workload is where it was: the test server runs in a."""
    await stage.run_server()
    return stage


SOURCE_FAILS = {
    "Preparing": ("proxy", "PUT", ""),
    "Stopping": ("agent", "POST", "/stop"),
    "Checkpointing": ("agent", "POST", "/dump"),
    "Adopting": ("agent", "POST", "/adopt"),
    "Transferring": ("agent", "POST", "/seal"),
}


async def rolled_back(stage, pod, how, party, method, ending, spare=0):
    """Moves with one call spoilt, after `spare` such calls; the clients' view and the result."""
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(3)]
    await asyncio.sleep(0.2)
    async with between(pod.agent_socket if party == "agent" else pod.proxy_socket) as interposer:
        interposer.spoil(method, ending, how, spare)
        result = await stage.move("server")
    await asyncio.sleep(0.2)
    for client in clients:
        await asyncio.to_thread(client.finish)
    assert (await stage.workloads(stage.a))["server"].state == "running"
    assert "server" not in await stage.workloads(stage.b)
    return result


@pytest.mark.parametrize("place", list(DESTINATION_REFUSES))
async def test_the_destination_refuses(unharmed, place):
    result = await rolled_back(unharmed, unharmed.b, Spoil.REFUSE, *DESTINATION_REFUSES[place])
    assert result.outcome == "rolled-back"
    assert result.error.code == "refused-by-test"
    assert result.phases[-1].name == "RollingBack"
    assert result.phases[-2].name == place.split()[0]


@pytest.mark.parametrize("place", list(SOURCE_FAILS))
@pytest.mark.parametrize("how", [Spoil.REFUSE, Spoil.SWALLOW])
async def test_the_source_fails_before_or_after_it_has_done_its_part(unharmed, place, how):
    result = await rolled_back(unharmed, unharmed.a, how, *SOURCE_FAILS[place])
    assert result.outcome == "rolled-back"
    assert result.phases[-2].name == place


async def test_a_workload_that_was_rolled_back_can_be_moved_again(stage):
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "INCR counter") == ":1"
    async with between(stage.b.agent_socket) as interposer:
        interposer.spoil("POST", "/restore", Spoil.REFUSE)
        assert (await stage.move("redis")).outcome == "rolled-back"
    assert ask(client, "INCR counter") == ":2"
    result = await stage.move("redis")
    assert result.outcome == "succeeded", result.error
    assert ask(client, "INCR counter") == ":3"
    client.close()


UNACCEPTED = """
import os, socket, sys, time
file = open(sys.argv[1] + "/one", "w")
os.link(file.name, sys.argv[1] + "/other")
os.unlink(file.name)
listener, caller = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
listener.bind("\\0unaccepted")
listener.listen()
caller.connect("\\0unaccepted")
caller.send(b"!")
print("up", flush=True)
time.sleep(1000)
"""


async def test_what_criu_said_of_a_dump_that_failed_is_kept_and_nothing_else(stage, tmp_path):
    await stage.run("busy", "/usr/bin/python3", "-I", "-S", "-c", UNACCEPTED, str(tmp_path))
    said = Path(stage.a.directory) / "busy.log"
    await until(lambda: "up" in said.read_text(), "it is not up")
    status, out, err = await stage.midstream("migrate", "busy", "--to", "b", "-o", "json")
    assert status == EXIT_ROLLED_BACK, err
    result = json.loads(out)
    error, log = result["error"], result["error"]["criu_log"]
    assert (error["code"], error["fault"]) == ("connection-state", "workload")
    assert "Non-empty write queue on an in-flight socket" in log["lines"][0]
    assert error["hint"].endswith(f" CRIU's log: {log['path']}")
    kept = Path(log["path"])
    assert kept.is_relative_to(stage.a.directory)
    assert all(line in kept.read_text() for line in log["lines"])
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o600, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]  # "one (deleted)" was lent
    status, out, err = await stage.midstream("status", result["migration"])
    assert (status, f"  CRIU's log: {kept}" in out.splitlines()) == (0, True), out


async def test_past_the_longest_hold_the_workload_goes_on_by_itself(stage):
    """The destination hangs; nobody tells the source anything; its agent's own lease ends the hold."""
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "INCR counter") == ":1"
    move = stage.move("redis", max_hold_seconds=4)  # on a busy machine it takes a second until there
    async with spoilt(move, stage.b.agent_socket, "/restore") as (moving, interposer):
        assert await asyncio.to_thread(ask, client, "INCR counter") == ":2"
        interposer.release.set()
        result = await moving
    assert result.outcome == "rolled-back"
    assert result.error.code == "lease-expired", result.error
    assert ask(client, "INCR counter") == ":3"
    client.close()


async def test_a_connection_opened_during_a_hold_that_is_rolled_back_is_served_by_the_workload(stage):
    await stage.run_redis()
    move = stage.move("redis", max_hold_seconds=60)  # for as long as a command may take on a busy machine
    async with spoilt(move, stage.b.agent_socket, "/restore") as (moving, interposer):
        early = stage.connect(stage.client, stage.a.address, REDIS_PORT, 1)
        early.sendall(b"PING\r\n")
        (migration,) = [path.stem for path in (stage.lab.home / "migrations").glob("*.jsonl")]
        command = asyncio.create_task(stage.midstream("rollback", migration))
        early.settimeout(60)
        assert await asyncio.to_thread(early.recv, 100) == b"+PONG\r\n"
        interposer.release.set()
        assert (await moving).outcome == "rolled-back"
        status, out, err = await command
    assert status == 0, err
    assert "RolledBack" in out


@pytest.mark.parametrize(
    ("pod", "ending", "how"),
    [("b", "/resume", Spoil.REFUSE), ("a", "/commit", Spoil.SWALLOW)],
    ids=["resume", "commit"],
)
async def test_what_fails_from_the_commit_on_is_asked_for_until_it_works(stage, pod, ending, how):
    """The destination refuses to resume; the source's answer to the commit gets lost."""
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "INCR counter") == ":1"
    async with spoilt(stage.move("redis"), getattr(stage, pod).agent_socket, ending, how) as (moving, interposer):
        await asyncio.sleep(0.3)
        interposer.heal()
        result = await moving
    assert result.outcome == "succeeded"
    assert result.error is None
    assert Phase.COMMITTING.value in [phase.name for phase in result.phases]
    assert ask(client, "INCR counter") == ":2"
    client.close()
