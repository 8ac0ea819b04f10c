"""Stopped threads that are held for a moment: the kernel's own account of how they stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes.tracing import seized
from checkpoint.processes.tree import is_stopped, stat, threads
from tests.harness.standing import standing_still, until

KERNEL = Kernel()
THREADS = "import os, threading; threading.Thread(target=os.read, args=(0, 1)).start(); print('up', flush=True)"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A stopped process of two threads."""
    argv = [sys.executable, "-I", "-S", "-c", THREADS]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as made:
        assert made.stdout is not None
        assert made.stdout.readline() == b"up\n"
        with standing_still(made.pid):
            yield made
        made.kill()


def state(pid: int, tid: int) -> str:
    found = stat(pid, tid)
    assert found is not None
    return found.state


def tracer(pid: int, tid: int) -> int:
    lines = Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("TracerPid:")))


@pytest.mark.parametrize("which", [0, 1])
def test_each_thread_stands_still_while_it_is_held_and_afterwards(child, which):
    tid = threads(child.pid)[which]
    for _ in range(2):
        with seized(KERNEL, tid):
            assert (state(child.pid, tid), tracer(child.pid, tid)) == ("t", os.getpid())
            assert state(child.pid, threads(child.pid)[not which]) == "T"
        until(lambda: is_stopped(child.pid))
        assert tracer(child.pid, tid) == 0


def test_it_is_let_go_whatever_we_fail_with(child):
    with pytest.raises(KeyError), seized(KERNEL, child.pid):
        raise KeyError
    until(lambda: is_stopped(child.pid))
    assert tracer(child.pid, child.pid) == 0


class Late(Kernel):
    def seize(self, tid: int) -> None:
        super().seize(tid)
        os.kill(tid, signal.SIGKILL)


def test_who_is_killed_meanwhile_is_not_waited_for(child):
    with pytest.raises(ProcessLookupError), seized(Late(), child.pid):
        pass


def test_who_is_killed_while_it_is_held_cannot_be_let_go(child):
    with pytest.raises(ProcessLookupError), seized(KERNEL, child.pid):
        os.kill(child.pid, signal.SIGKILL)


def test_who_is_gone_cannot_be_held(child):
    child.kill()
    child.wait()
    with pytest.raises(ProcessLookupError), seized(KERNEL, child.pid):
        pass
