"""The registry and the launcher, with real processes. PID 1's part is played by this process: it adopts orphans."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from checkpoint.api import RunWorkload
from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.processes import tree
from checkpoint.processes.workloads import Workloads, check_name


@pytest.fixture
def workloads(tmp_path):
    made = Workloads(Kernel(), tmp_path, 0)
    yield made
    for record in made.records():
        if tree.is_alive(record.root.pid, record.root.start_time):
            os.kill(record.root.pid, signal.SIGKILL)
            os.waitpid(record.root.pid, 0)


def reap(pid: int) -> None:
    os.waitpid(pid, 0)


async def test_a_workload_runs_is_seen_and_is_ended(workloads, tmp_path, wait_until):
    record = await workloads.run(RunWorkload("w", ["sh", "-c", "echo $A; exec sleep 1000"], {"A": "b", "PATH": "/bin"}))
    await wait_until(lambda: (tmp_path / "w.log").read_text() == "b\n")
    assert workloads.view(record, "m").state == "running"
    assert workloads.view(record, "m").migration == "m"
    with pytest.raises(AgentError) as caught:
        await workloads.run(RunWorkload("w", ["true"]))
    assert caught.value.code is Code.WORKLOAD_EXISTS
    os.kill(record.root.pid, signal.SIGSTOP)
    await wait_until(lambda: workloads.view(record, "").state == "stopped")
    assert (await workloads.kill("w")).state == "exited"
    reap(record.root.pid)
    assert workloads.view(record, "").state == "exited"
    with pytest.raises(AgentError) as caught:
        await workloads.kill("w")
    assert caught.value.code is Code.NO_WORKLOAD


async def test_of_two_that_are_started_at_once_by_one_name_one_runs(workloads):
    one, other = await asyncio.gather(*(_run_or_not(workloads) for _ in range(2)))
    refused, record = (one, other) if isinstance(one, AgentError) else (other, one)
    assert refused.code is Code.WORKLOAD_EXISTS
    assert workloads.records() == [record]
    await workloads.kill("w")
    reap(record.root.pid)
    again = await workloads.run(RunWorkload("w", ["sleep", "1000"], {"PATH": "/bin"}))
    assert again.root.pid != record.root.pid


async def _run_or_not(workloads):
    try:
        return await workloads.run(RunWorkload("w", ["sleep", "1000"], {"PATH": "/bin"}))
    except AgentError as error:
        return error


class Late(Kernel):
    """Whatever it shall take hold of has just ended by itself, and was reaped."""

    def pidfd_open(self, pid: int) -> int:
        os.kill(pid, signal.SIGKILL)
        reap(pid)
        return super().pidfd_open(pid)


async def test_one_that_ends_by_itself_while_it_is_ended_is_forgotten_too(tmp_path):
    workloads = Workloads(Late(), tmp_path, 0)
    await workloads.run(RunWorkload("w", ["sleep", "1000"], {"PATH": "/bin"}))
    assert (await workloads.kill("w")).state == "exited"
    assert workloads.records() == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (RunWorkload("w", ["no-such-command"]), "command not found: no-such-command"),
        (RunWorkload("w", ["/etc/passwd"]), "cannot run /etc/passwd: Permission denied"),
        (RunWorkload("w", ["true"], directory="/nowhere"), "cannot enter /nowhere: No such file or directory"),
        (RunWorkload("w", ["true"], {"A=": "b"}), "cannot run true: illegal environment variable name"),
        (RunWorkload("w", [""]), "cannot run : execve: argv first element cannot be empty"),
    ],
)
async def test_what_cannot_be_started_says_why(workloads, wanted, words):
    with pytest.raises(AgentError) as caught:
        await workloads.run(wanted)
    assert (caught.value.code, str(caught.value)) == (Code.EXEC_FAILED, words)
    assert workloads.records() == []


@pytest.mark.parametrize("argv", [[], ["a\0b"]])
async def test_argv_must_be_one(workloads, argv):
    with pytest.raises(AgentError) as caught:
        await workloads.run(RunWorkload("w", argv))
    assert caught.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 64])
def test_names(name):
    check_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "a b", "ä", "x" * 65, "-_-"])
def test_no_names(name):
    with pytest.raises(AgentError) as caught:
        check_name(name)
    assert caught.value.code is Code.BAD_REQUEST
