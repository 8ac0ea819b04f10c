"""Process trees, with real ones."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.processes import tree as trees

KERNEL = Kernel()
FAMILY = (
    "import os, threading, time\n"
    "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    "for _ in range(2):\n"
    "    if os.fork() == 0: time.sleep(1000)\n"
    "print('up', flush=True)\n"
    "time.sleep(1000)\n"
)


@pytest.fixture
def family():
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", FAMILY], stdout=subprocess.PIPE)
    assert process.stdout.read(3) == b"up\n"
    yield process.pid
    for pid in trees.descendants(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def reap(pids):
    for pid in pids:
        end = time.monotonic() + 5
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
    end = time.monotonic() + 5
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


async def test_a_tree_is_stopped_whole_and_goes_on(family):
    tree = await trees.stop(KERNEL, family)
    assert len(tree.pids) == 3
    assert tree.pids[0] == family
    assert all(trees.is_stopped(pid) for pid in tree.pids)
    trees.resume(KERNEL, tree)
    assert not any(trees.is_stopped(pid) for pid in tree.pids)
    tree.close()
    assert tree.members == []


async def test_who_was_stopped_before_stays_stopped(family):
    child = trees.descendants(family)[1]
    os.kill(child, signal.SIGSTOP)
    await trees.until_stopped(KERNEL, [child])
    tree = await trees.stop(KERNEL, family)
    assert tree.stopped_before == {child}
    trees.resume(KERNEL, tree)
    assert [trees.is_stopped(pid) for pid in tree.pids] == [pid == child for pid in tree.pids]
    tree.close()


async def test_a_tree_that_steps_back_does_so_with_every_thread(family):
    tree = await trees.stop(KERNEL, family)
    trees.step_back(tree)
    tids = [tid for pid in tree.pids for tid in trees.threads(pid)]
    assert len(tids) == 4
    assert {os.sched_getscheduler(tid) for tid in tids} == {os.SCHED_BATCH}
    assert {os.getpriority(os.PRIO_PROCESS, tid) for tid in tids} == {trees.ENDING_NICE}
    tree.close()


PARENT = "import os, time\nif os.fork() == 0: time.sleep(1000)\nprint('up', flush=True)\nos.wait()\ntime.sleep(1000)\n"


class Late(Kernel):
    """The child of the PARENT ends, and is waited for, before its parent stops."""

    parent: tuple[int, signal.Signals] | None = None

    def pidfd_signal(self, pidfd, number):
        if self.parent is None:
            self.parent = pidfd, number
            return
        super().pidfd_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 5)
        super().pidfd_signal(*self.parent)


@pytest.mark.parametrize("kernel", [KERNEL, Late()], ids=["stopped", "ended"])
async def test_who_ended_while_the_tree_was_stopped_is_no_member(kernel):
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", PARENT], stdout=subprocess.PIPE) as process:
        assert process.stdout.read(3) == b"up\n"
        parent, child = trees.descendants(process.pid)
        try:
            tree = await trees.stop(kernel, parent)
            assert tree.pids == ([parent, child] if kernel is KERNEL else [parent])
            tree.close()
        finally:
            for pid in trees.descendants(parent):
                os.kill(pid, signal.SIGKILL)


async def test_a_killed_tree_is_gone(family):
    tree = await trees.stop(KERNEL, family)
    trees.kill(KERNEL, tree)
    assert await trees.until_gone(tree, 5)
    assert trees.descendants(family) == []
    trees.step_back(tree)  # nobody is left to do it
    trees.kill(KERNEL, tree)  # or to hear it
    reap(tree.pids[1:])
    tree.close()


async def test_waiting_for_the_end_has_an_end(family):
    tree = trees.hold_all(KERNEL, [family])
    assert not await trees.until_gone(tree, 0.05)
    tree.close()


async def test_a_tree_that_has_ended_cannot_be_stopped():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(AgentError) as caught:
        await trees.stop(KERNEL, process.pid)
    assert caught.value.code is Code.WORKLOAD_GONE
    assert trees.hold(KERNEL, process.pid) is None
    assert not trees.is_alive(process.pid, 0)
    assert trees.threads(process.pid) == []
    assert not trees.is_stopped(process.pid)


async def test_what_does_not_stop_is_named_and_goes_on(family, monkeypatch):
    monkeypatch.setattr(trees, "STOP_SECONDS", 0.01)
    monkeypatch.setattr(trees, "is_stopped", lambda pid: False)
    with pytest.raises(AgentError, match=str(family)) as caught:
        await trees.stop(KERNEL, family)
    assert caught.value.code is Code.NOT_STOPPED
    monkeypatch.undo()
    assert not trees.is_stopped(family)


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
def test_a_first_thread_is_lost_only_where_the_others_run_on(others_seconds, lost):
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", WITHOUT_LEADER, others_seconds]) as process:
        try:
            end = time.monotonic() + 5
            while trees.stat(process.pid).state != "Z":
                assert time.monotonic() < end
            assert trees.has_lost_leader(process.pid) is lost
        finally:
            process.kill()
    assert trees.has_lost_leader(process.pid) is False
