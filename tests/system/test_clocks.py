"""Between machines that were started at other times: CLOCK_MONOTONIC and CLOCK_BOOTTIME begin there, and whoever waits
goes by them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from controller.lab import init
from controller.lab.pod import Pod
from tests.harness.journeys import Puppet, assert_nothing_lost, start_puppet
from tests.harness.moving import ONE_LOOP, Scene
from tests.harness.programs import uptime

pytestmark = ONE_LOOP

CLOCKS = ("CLOCK_MONOTONIC", "CLOCK_BOOTTIME")
WAITING = """
import ctypes, select, struct, time
libc = ctypes.CDLL(None)
ringing = libc.timerfd_create(1, 0)
libc.timerfd_settime(ringing, 0, struct.pack("4q", 0, 50_000_000, 0, 50_000_000), None)
late = {}
def waits(name, wait):
    def run():
        late[name] = 0
        while True:
            before, wall = time.monotonic(), time.time()
            wait()
            took = time.monotonic() - before
            late[name] = max(late[name], time.time() - wall - 0.05, 100 if took < 0 else 0)
    threading.Thread(target=run, daemon=True).start()
waits("a sleep", lambda: time.sleep(0.05))
waits("a lock", lambda: threading.Event().wait(0.05))
waits("a poll", lambda: select.poll().poll(50))
waits("an epoll", lambda: select.epoll().poll(0.05))
waits("a timer", lambda: os.read(ringing, 8))
"""
"""Each wait takes 50 ms, and tells by how much it was late; a clock that goes back counts for 100 s."""


@pytest_asyncio.fixture(loop_scope="session")
async def far(stage: Scene) -> AsyncIterator[Pod]:
    """A pod with another uptime."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(init, "__file__", uptime.__file__)
        made = await stage.lab.create("far")
    yield made
    await stage.clear()
    await stage.lab.delete("far")


async def test_what_counts_from_a_machines_start_goes_on_from_where_it_was(stage, far):
    told = await start_puppet(stage, pod=far)
    told.do(f"import os; exec({WAITING!r}, globals())")
    here = clocks_of(told)
    assert all(value > uptime.TEN_DAYS for value in here.values())
    for source, destination in ((far, stage.a), (stage.a, stage.b), (stage.b, far)):
        began, before = time.monotonic(), clocks_of(told)
        assert_nothing_lost(await stage.move("puppet", source=source, destination=destination))
        await asyncio.sleep(0.3)  # for each wait to end, some times
        after, passed = clocks_of(told), time.monotonic() - began
        for name in CLOCKS:
            assert before[name] < after[name] < before[name] + passed + 0.1, name
        late = told.do("dict(late)")
        assert len(late) == 5
        assert max(late.values()) < passed, late
        told.do("late.update(dict.fromkeys(late, 0))")


def clocks_of(told: Puppet) -> dict[str, float]:
    return {name: told.do(f"time.clock_gettime(time.{name})") for name in CLOCKS}
