"""A process held by its pidfd and a socket: ours, or one that outlived the agent before this one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity
from checkpoint.kernel import Kernel
from checkpoint.memory import giver
from checkpoint.memory.helper import MemoryHelper
from checkpoint.processes.tree import stat
from tests.harness.leaks import fresh_home

HELPER = """
import json, socket, sys, time
control = socket.socket(fileno=3)
while raw := control.recv(9999):
    order = json.loads(raw)
    if order.get("end"):
        sys.exit(order["end"])
    control.send(json.dumps({"error": "no"} if order.get("refuse") else {"said": order}).encode())
"""


def identity(pid: int) -> Identity:
    seen = stat(pid)
    assert seen is not None
    return Identity(pid, seen.start_time)


@pytest.fixture
async def helper(monkeypatch):
    """One that repeats what it is told; its module is in a folder that is on the helper's path alone."""
    folder = fresh_home()
    folder.mkdir()
    (folder / "repeats.py").write_text(HELPER)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    made = await MemoryHelper.start(Kernel(), "repeats", [], {"first": 1})
    yield made
    await made.close()
    (folder / "repeats.py").unlink()
    folder.rmdir()


async def test_each_has_his_own_answer_who_gives_an_order_at_the_same_time(helper):
    answers = await asyncio.gather(*(helper.ask({"n": n}) for n in range(20)))
    assert answers == [{"said": {"n": n}} for n in range(20)]


async def test_orders_are_answered_refused_or_too_late(helper):
    assert not helper.has_ended
    assert helper.answer == {"said": {"first": 1}}
    assert await helper.ask({"n": 2}) == {"said": {"n": 2}}
    with pytest.raises(AgentError, match="cannot go on: no") as caught:
        await helper.ask({"refuse": True})
    assert caught.value.code is Code.MEMORY_HELPER
    with pytest.raises(AgentError, match="has ended"):
        await helper.ask({"end": 3})
    await helper.ended()
    assert helper.has_ended
    assert helper.let_go() == 3


async def test_orders_of_several_at_once_are_each_answered(helper):
    """As where the workload's memory may be read, and CRIU is kept from its connections."""
    async with asyncio.timeout(30):
        said = await asyncio.gather(*(helper.ask({"n": number}) for number in range(5)))
    assert said == [{"said": {"n": number}} for number in range(5)]


async def test_it_has_nothing_of_the_agents_and_does_not_end_with_it(helper):
    pid = helper.identity.pid
    held = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH115, PTH208
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"  # noqa: PTH115
    assert len([one for one in held if one.startswith("socket:")]) == 1
    assert os.getsid(pid) == pid
    assert helper.userfaultfds() == []


async def test_one_that_was_left_is_found_by_its_start_and_ended(helper):
    kernel, known = Kernel(), helper.identity
    found = MemoryHelper.find(kernel, known)
    assert found is not None
    assert MemoryHelper.find(kernel, Identity(known.pid, known.start_time + 1)) is None
    assert MemoryHelper.find(kernel, None) is None
    found.signal(signal.SIGSTOP)
    await found.close()
    await found.close()  # said twice, done once
    assert MemoryHelper.find(kernel, known) is None


def test_one_that_ended_and_was_not_reaped_is_not_found():
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ""]) as process:
        known = identity(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert MemoryHelper.find(Kernel(), known) is None


async def test_a_first_order_that_is_refused_leaves_no_process():
    with pytest.raises(AgentError) as caught:
        await MemoryHelper.start(Kernel(), giver.__name__, [], {"identity": "none", "host": "127.0.0.1"})
    assert caught.value.code is Code.MEMORY_HELPER
