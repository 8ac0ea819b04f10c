"""What a workload has written moves with it, between pods with a root of their own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest_asyncio

import checkpoint.api as agent_api
from controller.clients import AgentClient
from controller.core.errors import Refused
from controller.core.phases import Action
from controller.core.transfer import Transfer
from controller.lab.lab import Lab
from controller.lab.pod import Pod
from controller.lab.readiness import wait_ready
from controller.migrate import Driver
from controller.transfer import Depot
from tests.harness import sidecars
from tests.harness.keys import key_file
from tests.harness.leaks import fresh_home
from tests.harness.moving import ONE_LOOP, Scene, end_workloads, until

PROGRAM = Path(__file__).parents[1] / "harness" / "programs" / "files.py"
LOCKS = PROGRAM.with_name("locks.py")
FIRST, SECOND, THIRD, NAMED = "/var/midstream-1", "/var/midstream-2", "/var/midstream-3", "/srv"

pytestmark = ONE_LOOP


@asynccontextmanager
async def own_roots() -> AsyncIterator[Scene]:
    lab = Lab(fresh_home())
    try:
        made = await asyncio.gather(*(lab.create(name, own_root=True) for name in ("a", "b")))
        yield Scene(lab, *made, made[0])
    finally:
        await lab.delete_all()
        shutil.rmtree(lab.home, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage():
    async with own_roots() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def own_stage():
    """Of the test's own: an agent that was killed comes back as another process, and what a test leaves conflicts."""
    async with own_roots() as made:
        yield made


def inside(pod: Pod, script: str) -> str:
    argv = ["nsenter", "-a", "-t", str(pod.pid1), "/bin/sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def staging(pod: Pod) -> list[Path]:
    """What a transfer has in the pod's root for the time being."""
    return [*pod.layer.glob(".midstream-*"), *(Path(pod.directory) / "agent").glob("placed-*")]


def said(pod: Pod, top: str) -> list[str]:
    """What the program has written to its log so far."""
    log = pod.layer / top.lstrip("/") / "log"
    return log.read_text().splitlines() if log.exists() else []


@asynccontextmanager
async def running(stage: Scene, top: str, deletes: str) -> AsyncIterator[None]:
    """The program, in a at first and in the end."""
    await stage.run("writer", "/usr/bin/python3", "-S", str(PROGRAM), top, deletes)
    try:
        await until(lambda: len(said(stage.a, top)) > 3, "the program does not write its log")
        yield
    finally:
        async with AgentClient("agent of a", stage.a.agent_socket) as agent:
            await agent.kill("writer")


async def goes_on(pod: Pod, top: str) -> None:
    """Until the program has checked everything twice more."""
    before = len(said(pod, top))
    await until(lambda: len(said(pod, top)) > before + 2, f"the log in {pod.name} does not grow")
    lines = said(pod, top)[:-1]  # the last one may be half written
    assert [line.split()[0] for line in lines] == [str(number) for number in range(len(lines))]
    assert {line.split(None, 1)[1] for line in lines} == {"all is well"}


async def test_all_that_it_has_written_moves_with_it_and_home_again(stage):
    look = f"cd {FIRST}; stat -c '%n %F %a %u %g %s %Y %h' sparse link name-1 name-2 private fifo"
    archive = stage.lab.home / "moves"
    depot = Depot(agent_api.Archive(str(archive)), key_file(stage.lab.home / "moves.key"))
    async with running(stage, FIRST, "/etc/hostname"):
        there = inside(stage.a, look)
        there_and_back = [(stage.a, stage.b), (stage.b, stage.a)]
        for (source, destination), way in zip(2 * there_and_back, ("direct", "shared", "store", "shared"), strict=True):
            drivers: list[Driver] = []
            how = {"transfer": Transfer(way), "depot": depot, "max_hold_seconds": 30}
            result = await stage.move("writer", source, destination, **how, prepare=drivers.append)
            assert result.outcome == "succeeded", result.error
            assert result.transfer is not None
            assert result.transfer.way == way
            assert "stage" in drivers[0].move.seconds, "nothing of them came before the freeze"
            assert not [path for path in archive.rglob("*") if path.is_file()]
            assert not list(Path(destination.images).glob("*.files"))
            await goes_on(destination, FIRST)
            assert inside(destination, look) == there
            assert int(inside(destination, f"stat -c %b {FIRST}/sparse")) * 512 < 1 << 20
            assert inside(destination, f"cat {FIRST}-config") == "new"
            await until(lambda pod=destination: not staging(pod), "what was replaced is still there")
            kept = os.getxattr(destination.layer / FIRST.lstrip("/") / "private", "trusted.midstream")
            assert kept == b"kept"
    assert Path("/etc/hostname").exists()


async def test_a_folder_that_is_named_moves_too(stage):
    """A volume of each pod's own, as a machine would have it: what is in it goes along with what has it open."""
    for pod in (stage.a, stage.b):
        inside(pod, f"mount -t tmpfs -o size=80m volume {NAMED}; echo here > {NAMED}/{pod.name}")
    await stage.run("writer", "/usr/bin/python3", "-S", str(PROGRAM), f"{NAMED}/data", f"{NAMED}/a")
    await until(lambda: lines_in(stage.a) > 3, "the program does not write its log")
    status, _, err = await stage.midstream("migrate", "writer", "--to", "b", "--with", NAMED, "-o", "json")
    assert status == 0, err
    moved = lines_in(stage.b)
    await until(lambda: lines_in(stage.b) > moved + 2, "the log does not grow")
    assert inside(stage.b, f"head -n -1 {NAMED}/data/log | cut -d' ' -f2- | sort -u") == "all is well"
    assert inside(stage.b, f"ls {NAMED}").split() == ["b", "data", "data-config"]
    await end_workloads(stage.b)
    for pod in (stage.a, stage.b):
        inside(pod, f"umount {NAMED}")


def lines_in(pod: Pod) -> int:
    return int(inside(pod, f"cat {NAMED}/data/log 2>/dev/null | wc -l"))


async def test_copies_have_what_it_had_written_and_their_pods_are_alike(stage):
    """The archive is where every pod sees it: in the home, which they share."""
    key, place = stage.lab.home / "key", str(stage.lab.home / "archive")
    key_file(key)
    where = ("--key-file", str(key), "-o", "json")
    async with running(stage, THIRD, "/etc/issue.net"):
        status, out, err = await stage.midstream("checkpoint", "writer", "--to", place, *where)
        assert status == 0, err
        copying = ("restore", json.loads(out)["image"], "--to", "b", "--name", "copy", "--copies", "2")
        status, _, err = await stage.midstream(*copying, "-a", place, *where)
        assert status == 0, err
        for pod in (stage.b, stage.lab.pod("b-2")):
            assert pod.own_root
            await goes_on(pod, THIRD)
            await end_workloads(pod)
        await goes_on(stage.a, THIRD)
    await stage.lab.delete("b-2")


async def test_what_would_travel_is_said_and_what_is_rolled_back_leaves_the_destinations_files_as_they_were(stage):
    async with running(stage, SECOND, "/etc/issue"):
        await says_what_travels(stage)
        look = f"cat /etc/issue /var/theirs; ls -d {SECOND} 2>&1; stat -c '%n %Y %a' /var /etc /etc/issue"
        inside(stage.b, "echo theirs > /var/theirs")
        before = inside(stage.b, look)
        result = await stage.move("writer", prepare=lambda driver: refuse_the_commit(driver, stage.b, f"{SECOND}/log"))
        assert (result.outcome, result.error.code) == ("rolled-back", "on-purpose")
        assert inside(stage.b, look) == before
        inside(stage.b, f"mkdir {SECOND}; echo newer > {SECOND}/log; touch -d 2100-01-01 {SECOND}/log")
        result = await stage.move("writer")
        assert (result.outcome, result.error.code) == ("rolled-back", "file-conflict")
        assert f"{SECOND}/log is newer there" in result.error.message
        assert "Stopping" not in [phase.name for phase in result.phases]
        assert inside(stage.b, f"cat {SECOND}/log") == "newer"
        assert not staging(stage.b)
        await goes_on(stage.a, SECOND)


async def test_the_agent_is_killed_between_the_placing_of_files_and_the_resume(own_stage):
    """The next one takes them back with the copy, or resumes it with them."""
    async with running(own_stage, FIRST, "/etc/issue"):
        look = f"cat /etc/issue; ls -d {FIRST} 2>&1; stat -c '%n %Y %a' /var /etc /etc/issue"
        before = inside(own_stage.b, look)
        result = await own_stage.move("writer", prepare=lambda driver: kill_at_the_commit(driver, own_stage.b, False))
        assert (result.outcome, result.error.code) == ("rolled-back", "on-purpose")
        assert inside(own_stage.b, look) == before
        assert not staging(own_stage.b)
        await goes_on(own_stage.a, FIRST)
        result = await own_stage.move("writer", prepare=lambda driver: kill_at_the_commit(driver, own_stage.b, True))
        assert result.outcome == "succeeded", result.error
        await goes_on(own_stage.b, FIRST)
        await until(lambda: not staging(own_stage.b), "what was replaced is still there")
        assert (await own_stage.move("writer", own_stage.b, own_stage.a)).outcome == "succeeded"


def kill_at_the_commit(driver: Driver, destination: Pod, commits: bool) -> None:
    really = driver.move.perform

    async def perform(action: Action) -> None:
        if action is Action.COMMIT:
            assert inside(destination, f"ls {FIRST}/log") == f"{FIRST}/log"
            victim = sidecars.running(destination, sidecars.AGENT)
            os.kill(victim, signal.SIGKILL)
            if not commits:
                await until(lambda: not Path(f"/proc/{victim}").exists(), "the agent does not end")
                await wait_ready(destination)
                raise Refused("on-purpose", "the commit does not happen", "request")
        await really(action)

    driver.move.perform = perform


async def says_what_travels(stage: Scene) -> None:
    order = ("migrate", "writer", "--to", "b", "--dry-run", "-o", "json", "--max-ghost-size", "1KiB")
    status, out, _ = await stage.midstream(*order)
    plan = json.loads(out)
    assert (status, [problem["code"] for problem in plan["problems"]]) == (1, ["ghost-too-large"])
    (ground,) = plan["files"]["grounds"]
    assert ground["path"] == "/"
    assert ground["deleted"] >= 1
    assert ground["size_bytes"] > 64 << 20
    (gone,) = plan["files"]["deleted"]
    assert (gone["path"], 14_000 <= gone["size_bytes"] <= 1 << 16) == (f"{SECOND}/gone", True)  # in blocks


def refuse_the_commit(driver: Driver, destination: Pod, file: str) -> None:
    really = driver.move.perform

    async def perform(action: Action) -> None:
        if action is Action.COMMIT:
            assert inside(destination, f"ls {file}") == file
            raise Refused("on-purpose", "the commit does not happen", "request")
        await really(action)

    driver.move.perform = perform


@asynccontextmanager
async def holding(stage: Scene, top: str) -> AsyncIterator[int]:
    """The process that holds locks below `top`, in a at first and in the end."""
    started = await stage.run("locker", "/usr/bin/python3", "-S", str(LOCKS), top)
    try:
        await until(lambda: "waits" in names_in(stage.a, top), "nobody waits for the lock")
        yield started.pid
    finally:
        async with AgentClient("agent of a", stage.a.agent_socket) as agent:
            await agent.kill("locker")


def names_in(pod: Pod, folder: str) -> list[str]:
    return inside(pod, f"ls {folder} 2>/dev/null || true").split()


def locked(pod: Pod, pid: int) -> list[str]:
    """What of the process's locks another one in the pod is refused."""
    return inside(pod, f"/usr/bin/python3 -S {LOCKS} ask {pid}").split()


async def test_file_locks_move_with_their_files_and_stay_where_they_were_when_it_is_rolled_back(own_stage):
    top, every = "/var/midstream-locks", ["flock", "fcntl", "ofd", "gone", "from-the-machine"]
    async with holding(own_stage, top) as pid:
        assert locked(own_stage.a, pid) == every
        result = await own_stage.move(
            "locker", prepare=lambda driver: refuse_the_commit(driver, own_stage.b, f"{top}/ofd")
        )
        assert (result.outcome, result.error.code) == ("rolled-back", "on-purpose")
        assert locked(own_stage.a, pid) == every
        for source, destination in ((own_stage.a, own_stage.b), (own_stage.b, own_stage.a)):
            result = await own_stage.move("locker", source, destination)
            assert result.outcome == "succeeded", result.error
            assert locked(destination, pid) == every
            assert "got" not in names_in(destination, top)
        inside(own_stage.a, f"kill -USR1 {pid}")
        await until(lambda: "got" in names_in(own_stage.a, top), "who waited for the lock does not get it")
        assert locked(own_stage.a, pid) == every, "the child has it now"


async def test_a_lock_on_a_file_that_both_pods_share_is_refused_in_words(stage):
    """The lab's folder is shared, whatever root a pod has. The deleted file is nobody's, and not named."""
    top = f"{stage.lab.home}/locks"
    async with holding(stage, top) as pid:
        result = await stage.move("locker")
        assert (result.outcome, result.error.code, result.error.fault) == ("rolled-back", "lock-held", "request")
        words = f"the process holds a lock (flock) on {top}/flock, which pod b shares: the copy cannot get it"
        assert result.error.message == f"{words}; and 2 more: midstream migrate --dry-run lists them"
        assert "pod create --own-root" in result.error.hint
        assert "Stopping" not in [phase.name for phase in result.phases]
        assert "gone" in locked(stage.a, pid)
        status, out, _ = await stage.midstream("check", "locker", "-o", "json")
        assert status == 0
        assert [one["code"] for one in json.loads(out)["warnings"]] == 3 * ["lock-held"]
        key = str(key_file(stage.lab.home / "locks.key").file)
        status, _, err = await stage.midstream("checkpoint", "locker", "--to", f"{top}-archive", "--key-file", key)
        assert status == 1
        assert f"a lock (flock) on {top}/flock, which other pods share" in err.replace("\n", " ")
