"""What a workload has written moves with it, between pods with a root of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from controller.core.errors import Refused
from controller.core.phases import Action
from controller.lab.lab import Lab
from controller.lab.pod import Pod
from tests.harness.leaks import fresh_home
from tests.harness.moving import Scene, until

PROGRAM = Path(__file__).parents[1] / "harness" / "programs" / "files.py"
TOP = "/var/midstream-test"


@pytest.fixture
async def stage():
    lab = Lab(fresh_home())
    try:
        made = await asyncio.gather(*(lab.create(name, own_root=True) for name in ("a", "b")))
        yield Scene(lab, *made, made[0])
    finally:
        await lab.delete_all()
        shutil.rmtree(lab.home, ignore_errors=True)


def inside(pod: Pod, script: str) -> str:
    argv = ["nsenter", "-a", "-t", str(pod.pid1), "/bin/sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def staging(pod: Pod) -> list[Path]:
    """What a transfer has in the pod's root for the time being."""
    return [*pod.layer.glob(".midstream-*"), *(Path(pod.directory) / "agent").glob("placed-*")]


def said(pod: Pod) -> list[str]:
    """What the program has written to its log so far."""
    log = pod.layer / TOP.lstrip("/") / "log"
    return log.read_text().splitlines() if log.exists() else []


async def run(stage: Scene) -> None:
    await stage.run("writer", "/usr/bin/python3", "-S", str(PROGRAM), TOP)
    await until(lambda: len(said(stage.a)) > 3, "the program does not write its log")


async def goes_on(pod: Pod) -> None:
    """Until the program has checked everything twice more."""
    before = len(said(pod))
    await until(lambda: len(said(pod)) > before + 2, f"the log in {pod.name} does not grow")
    lines = said(pod)
    assert [line.split()[0] for line in lines] == [str(number) for number in range(len(lines))]
    assert {line.split(None, 1)[1] for line in lines} == {"all is well"}


async def test_all_that_it_has_written_moves_with_it_and_home_again(stage):
    await run(stage)
    there = inside(stage.a, f"cd {TOP}; stat -c '%n %F %a %u %g %s %Y %h' sparse link name-1 name-2 private fifo")
    for source, destination in ((stage.a, stage.b), (stage.b, stage.a)):
        result = await stage.move("writer", source, destination)
        assert result.outcome == "succeeded", result.error
        await goes_on(destination)
        script = f"cd {TOP}; stat -c '%n %F %a %u %g %s %Y %h' sparse link name-1 name-2 private fifo"
        assert inside(destination, script) == there
        assert int(inside(destination, f"stat -c %b {TOP}/sparse")) * 512 < 1 << 20
        assert inside(destination, f"cat {TOP}/../midstream-config") == "new"
        await until(lambda pod=destination: not staging(pod), "what was replaced is still there")
        assert os.getxattr(destination.layer / TOP.lstrip("/") / "private", "trusted.midstream") == b"kept"
    assert Path("/etc/hostname").exists()


async def test_a_move_that_is_rolled_back_leaves_the_destinations_files_as_they_were(stage):
    await run(stage)
    look = f"cat /etc/hostname /var/theirs; ls -d {TOP} 2>&1; stat -c '%n %Y %a' /var /etc /etc/hostname"
    inside(stage.b, "echo theirs > /var/theirs")
    before = inside(stage.b, look)

    def refuse_the_commit(driver) -> None:
        really = driver.move.perform

        async def perform(action):
            if action is Action.COMMIT:
                assert inside(stage.b, f"ls {TOP}/log") == f"{TOP}/log"
                raise Refused("on-purpose", "the commit does not happen", "request")
            await really(action)

        driver.move.perform = perform

    result = await stage.move("writer", prepare=refuse_the_commit)
    assert (result.outcome, result.error.code) == ("rolled-back", "on-purpose")
    assert inside(stage.b, look) == before
    inside(stage.b, f"mkdir -p {TOP}; echo newer > {TOP}/log; touch -d 2100-01-01 {TOP}/log")
    result = await stage.move("writer")
    assert (result.outcome, result.error.code) == ("rolled-back", "file-conflict")
    assert f"{TOP}/log is newer there" in result.error.message
    assert "Stopping" not in [phase.name for phase in result.phases]
    assert inside(stage.b, f"cat {TOP}/log") == "newer"
    assert not staging(stage.b)
    await goes_on(stage.a)
