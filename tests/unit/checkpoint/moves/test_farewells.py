"""The end of a workload that was moved here, told to the proxy: with real processes, and a proxy that notes it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable

import pytest

from checkpoint.core.journal import Identity, WorkloadRecord
from checkpoint.kernel import Kernel
from checkpoint.moves import farewells
from checkpoint.moves.farewells import Farewells
from checkpoint.processes import tree
from tests.harness.adopter import Adopter


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(farewells, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(farewells, "_AGAIN_SECONDS", 0.01)


@pytest.fixture
def process():
    """A session's first process, as a workload's is."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as made:
        yield made
        made.kill()


@pytest.fixture
def expect(tmp_path):
    """Has the ends of these workloads told at adopt.sock, and gives who does it."""
    made: list[Farewells] = []

    def begin(*records: WorkloadRecord, holder: Callable[[str], str] = lambda name: "") -> Farewells:
        made.append(Farewells(Kernel(), str(tmp_path / "adopt.sock"), spawn, holder))
        for record in records:
            made[-1].expect(record)
        return made[-1]

    tasks: list[asyncio.Task[None]] = []

    def spawn(work, name):
        tasks.append(asyncio.get_running_loop().create_task(work, name=name))
        return tasks[-1]

    begin.tasks = tasks
    yield begin
    for each in made:
        each.close()


@pytest.fixture
def proxy(tmp_path):
    with Adopter(tmp_path / "adopt.sock") as adopter:
        yield adopter


def record_of(process: subprocess.Popen[bytes], later: int = 0) -> WorkloadRecord:
    """`later`: its number is another's by now, who was started so much later."""
    return WorkloadRecord("w", Identity(process.pid, tree.stat(process.pid).start_time - later), ["sleep"], "w-1")


TOLD = [{"op": "end", "migration": "w-1"}]


async def test_it_is_told_when_it_ends(process, proxy, expect, wait_until):
    expect(record_of(process))
    await asyncio.sleep(0.05)
    assert proxy.requests == []
    process.kill()
    await wait_until(lambda: proxy.requests)
    await wait_until(lambda: expect.tasks[0].done())
    assert proxy.requests == TOLD


@pytest.mark.parametrize("later", [0, 1])
async def test_of_one_that_had_ended_while_no_agent_looked(later, process, proxy, expect, wait_until):
    record = record_of(process, later)
    if not later:
        process.kill()
        process.wait()
    expect(record)
    await wait_until(lambda: proxy.requests)
    assert proxy.requests == TOLD


async def test_not_while_a_move_has_it_nor_when_that_has_taken_it_away(process, proxy, expect, wait_until):
    holders = ["w-2"]
    record = record_of(process)
    farewell = expect(record, holder=lambda name: holders[0])
    process.kill()
    process.wait()
    await asyncio.sleep(0.05)
    assert proxy.requests == []
    farewell.moved_on(record.root)
    await wait_until(lambda: expect.tasks[0].done())
    holders[0] = ""
    assert proxy.requests == []
    assert expect.tasks[0].cancelled()


async def test_another_of_its_name_that_moves_on_does_not_take_it_along(proxy, expect, wait_until):
    """Its first process has ended, so the name was free; others of its session still live."""
    script = ["sh", "-c", "sleep 1000 & echo $!"]
    with subprocess.Popen(script, start_new_session=True, stdout=subprocess.PIPE) as first:
        record = record_of(first)
        child = int(first.stdout.readline())
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as second:
        other = record_of(second)
        farewell = expect(record, other)
        await asyncio.sleep(0.05)
        farewell.moved_on(other.root)
        second.kill()
    await asyncio.sleep(0.05)
    assert proxy.requests == []
    os.kill(child, signal.SIGKILL)
    await wait_until(lambda: proxy.requests)
    assert proxy.requests == TOLD


async def test_a_thread_that_has_its_number_by_now_is_another(proxy, expect, wait_until):
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    expect(WorkloadRecord("w", Identity(thread.native_id, 1), ["sleep"], "w-1"))
    await wait_until(lambda: proxy.requests)
    done.set()
    thread.join()


async def test_when_a_move_was_taken_back_that_it_did_not_outlive(process, proxy, expect, wait_until):
    holders = ["w-2"]
    expect(record_of(process), holder=lambda name: holders[0])
    process.kill()
    process.wait()
    await asyncio.sleep(0.05)
    assert proxy.requests == []
    holders[0] = ""
    await wait_until(lambda: proxy.requests)


async def test_a_proxy_that_is_not_there_yet_is_told_later(process, expect, tmp_path, wait_until):
    expect(record_of(process))
    process.kill()
    process.wait()
    await asyncio.sleep(0.05)
    assert not expect.tasks[0].done()
    with Adopter(tmp_path / "adopt.sock") as adopter:
        await wait_until(lambda: expect.tasks[0].done())
        assert adopter.requests == TOLD
