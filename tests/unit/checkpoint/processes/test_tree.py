"""Process trees, with real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import stopping
from checkpoint.processes import tree as trees

KERNEL = Kernel()


def reap(pids):
    for pid in pids:
        end = time.monotonic() + 30
        while trees.stat(pid) is not None and time.monotonic() < end:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                time.sleep(0.01)


def test_a_session_lives_as_long_as_any_process_of_it():
    script = "sleep 1000 & echo $!; exec sleep 1000"
    leader = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    with leader.stdout:
        child = int(leader.stdout.readline())
    began = trees.stat(leader.pid).start_time
    assert trees.session_lives(leader.pid, began)
    assert not trees.session_lives(leader.pid, began - 1), "that PID was another's then"
    leader.kill()
    leader.wait()
    assert trees.session_lives(leader.pid, began)
    os.kill(child, signal.SIGKILL)
    end = time.monotonic() + 30
    while trees.session_lives(leader.pid, began):  # its end is near, and nobody here is told of it
        assert time.monotonic() < end
        time.sleep(0.01)


def test_kin_is_a_tree_and_who_has_left_it_for_its_session():
    script = "(sleep 1000 & echo $!); sleep 1000 & echo $!; wait"
    leader = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    with leader.stdout:
        orphan, child = int(leader.stdout.readline()), int(leader.stdout.readline())
    found = trees.kin(leader.pid)
    assert sorted(found) == sorted([leader.pid, orphan, child])
    assert found[0] == leader.pid
    assert orphan not in trees.descendants(leader.pid)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    leader.wait()
    reap(found)


async def test_a_tree_that_steps_back_does_so_with_every_thread(family):
    tree = await stopping.stop(KERNEL, family)
    trees.step_back(tree)
    tids = [tid for pid in tree.pids for tid in trees.threads(pid)]
    assert len(tids) == 4
    assert {os.sched_getscheduler(tid) for tid in tids} == {os.SCHED_BATCH}
    assert {os.getpriority(os.PRIO_PROCESS, tid) for tid in tids} == {trees.ENDING_NICE}
    tree.close()


async def test_a_killed_tree_is_gone(family):
    tree = await stopping.stop(KERNEL, family)
    trees.kill(KERNEL, tree)
    assert await trees.until_gone(tree, 30)
    assert trees.descendants(family) == []
    trees.step_back(tree)  # nobody is left to do it
    trees.kill(KERNEL, tree)  # or to hear it
    reap(tree.pids[1:])
    tree.close()


async def test_whose_end_was_waited_for_has_no_pid_any_more(monkeypatch, wait_until):
    """Also where whoever reaps it has other things to do."""
    monkeypatch.setattr(trees, "_REAPING_SECONDS", 30.0)
    with subprocess.Popen(["sleep", "1000"]) as child:
        tree = trees.hold_all(KERNEL, [child.pid])
        trees.kill(KERNEL, tree)
        waiting = asyncio.create_task(trees.until_gone(tree, 30))
        await wait_until(lambda: trees.stat(child.pid).state == "Z")
        assert (await asyncio.wait({waiting}, timeout=0.1))[0] == set()
        child.wait()
        assert await waiting
    tree.close()


async def test_waiting_for_the_end_has_an_end(family):
    tree = trees.hold_all(KERNEL, [family])
    assert not await trees.until_gone(tree, 0.05)
    tree.close()


def test_a_process_is_known_by_its_start_time(family):
    seen = trees.stat(family)
    assert trees.is_alive(family, seen.start_time)
    assert not trees.is_alive(family, seen.start_time + 1)
    assert seen.parent == os.getpid()


WITHOUT_LEADER = (
    "import ctypes, os, sys, threading, time\n"
    "threading.Thread(target=time.sleep, args=(float(sys.argv[1]),)).start()\n"
    "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)\n"  # exit(2): of one thread
)


@pytest.mark.parametrize(("others_seconds", "lost"), [("1000", True), ("0.02", False), ("0", False)])
def test_a_first_thread_is_lost_only_where_the_others_run_on(others_seconds, lost, monkeypatch):
    if not lost:
        monkeypatch.setattr(trees, "ENDING_SECONDS", 30.0)  # others may have the processors just then
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", WITHOUT_LEADER, others_seconds]) as process:
        try:
            end = time.monotonic() + 30
            while trees.stat(process.pid).state != "Z":
                assert time.monotonic() < end
            assert trees.has_lost_leader(process.pid) is lost
        finally:
            process.kill()
    assert trees.has_lost_leader(process.pid) is False
