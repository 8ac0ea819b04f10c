"""Between machines whose processors can do more and less: a program finds out what there is when it starts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from controller.lab.pod import Pod
from controller.lab.readiness import wait_ready
from tests.harness.journeys import assert_nothing_lost, start_puppet
from tests.harness.moving import ONE_LOOP, until
from tests.harness.sidecars import AGENT, running, sidecar

pytestmark = ONE_LOOP


async def test_a_program_goes_where_there_is_all_that_it_found_and_home_again(own_stage, tmp_path):
    rich, poor = own_stage.a, own_stage.b
    lacking = await without_a_feature(poor, tmp_path / "cpuinfo")
    await start_puppet(own_stage, "born-rich", rich)
    status, out, _ = await own_stage.midstream("migrate", "born-rich", "--to", "b", "--dry-run", "-o", "json")
    assert status != 0
    (problem,) = json.loads(out)["problems"]
    assert problem["code"] == "processor-differs"
    assert f"using {lacking}," in problem["message"]
    told = await start_puppet(own_stage, "born-poor", poor, port=7300)
    for source, destination in ((poor, rich), (rich, poor), (poor, rich)):
        assert_nothing_lost(await own_stage.move("born-poor", source=source, destination=destination))
        assert told.do("1 + 1") == 2
        await restart_the_agent(destination)  # who comes after it knows, too


async def without_a_feature(pod: Pod, file: Path) -> str:
    """Has the pod's agent see a processor that lacks one; gives its name."""
    text = Path("/proc/cpuinfo").read_text()
    (feature,) = re.findall(r"\b(?:sse4_2|asimd)\b", text)[:1]
    file.write_text(re.sub(rf"\b{feature}\b", "", text))
    enter = ("nsenter", f"--mount=/proc/{pod.pid1}/ns/mnt")
    subprocess.run([*enter, "mount", "--bind", str(file), "/proc/cpuinfo"], check=True)
    await restart_the_agent(pod)
    return feature


async def restart_the_agent(pod: Pod) -> None:
    pid = running(pod, AGENT)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: sidecar(pod, AGENT) not in (None, pid), "nobody starts another agent")
    await wait_ready(pod)
