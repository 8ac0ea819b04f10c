"""The twin of checkpoint/processes/attributes.py, with a child of this process as the tree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import attributes
from checkpoint.processes.attributes import EVERY, TaskAttributes
from checkpoint.processes.tree import Tree, hold_all, threads

KERNEL = Kernel()
SLEEPER = "import threading, sys; threading.Thread(target=sys.stdin.read).start(); print('ready', flush=True)"
WANTED = {"CPU affinity": "0", "I/O priority": str((2 << 13) | 7), "timer slack": "123456", "core dump filter": "0x7f"}


@pytest.fixture
def tree() -> Iterator[Tree]:
    """Of one process with two threads."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-S", "-c", SLEEPER], **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        held = hold_all(KERNEL, [child.pid])
        yield held
        held.close()
        child.communicate()


def test_what_is_like_this_process_is_left_to_criu(tree: Tree) -> None:
    assert attributes.read(KERNEL, tree) == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: every thread is bound to it")
def test_what_is_set_is_read_again_of_each_thread(tree: Tree) -> None:
    pid, other = threads(tree.members[0].pid)
    of_a_thread = {name: value for name, value in WANTED.items() if name in attributes.OF_A_THREAD}
    wanted = [TaskAttributes(pid, WANTED), TaskAttributes(other, of_a_thread)]
    assert attributes.write(KERNEL, tree, wanted) == []
    assert attributes.read(KERNEL, tree) == wanted
    assert os.sched_getaffinity(other) == {0}


def test_what_cannot_be_set_is_named_and_the_rest_is_set(tree: Tree) -> None:
    (pid, _) = threads(tree.members[0].pid)
    failed = attributes.write(KERNEL, tree, [TaskAttributes(pid, WANTED | {"CPU affinity": "4000"})])
    assert failed == [f"CPU affinity 4000 of thread {pid}: Invalid argument"]
    (found,) = attributes.read(KERNEL, tree)
    assert found.values == {name: value for name, value in WANTED.items() if name != "CPU affinity"}


def test_no_thread_of_others_is_touched(tree: Tree) -> None:
    ours = TaskAttributes(os.getpid(), {"timer slack": "123456"})
    assert attributes.write(KERNEL, tree, [ours]) == [f"timer slack 123456 of thread {os.getpid()}: it is not there"]
    assert EVERY["timer slack"].read(KERNEL, os.getpid()) != "123456"


def test_what_a_machine_does_not_have_is_not_carried(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoint.kernel._SYS_IOPRIO_GET", -1)
    pid, _ = threads(tree.members[0].pid)
    EVERY["I/O priority"].write(KERNEL, pid, WANTED["I/O priority"])
    assert attributes.read(KERNEL, tree) == []
