"""Who has come of a workload and has left its tree, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from checkpoint.api import Workload
from checkpoint.core.errors import Code
from checkpoint.inspection.workload import inspect

SOURCE = """
import ctypes, os, socket, sys, time
def strays(name, leaves):
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(15, name.encode())
            leaves()
            os.write(1, f"{name} {os.getpid()}\\n".encode())
            time.sleep(60)
        os._exit(0)
    os.waitpid(child, 0)
shared, private = socket.socketpair()
def goes(*descriptors):
    os.setsid()
    for fd in (0, 2, *descriptors):
        os.close(fd)
strays("of-session", lambda: None)
strays("shares-socket", lambda: goes(private.fileno()))
if os.fork() == 0:
    time.sleep(60)
os.write(1, b"up 0\\n")
os.read(0, 1)
"""


@pytest.fixture
def workload():
    """Its root, and the PIDs of its two strays."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    argv = [sys.executable, "-I", "-S", "-c", SOURCE]
    with subprocess.Popen(argv, text=True, start_new_session=True, **pipes) as root:
        said = dict(root.stdout.readline().split() for _ in range(3))  # in whichever order they come to it
        strays = [int(said[name]) for name in ("of-session", "shares-socket")]
        yield root, strays
        for pid in (*strays, *_children(root.pid)):
            os.kill(pid, signal.SIGKILL)
        root.stdin.write("x")


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def test_who_is_of_its_session_stands_in_the_way_and_who_shares_a_socket_is_warned_of(workload):
    root, (of_session, shares_socket) = workload
    found = inspect(Workload("w", root.pid, ["x"], "running"))
    assert found.processes == 2
    (problem,) = found.problems
    assert problem.code == Code.LEFT_BY_PARENT.value
    assert problem.message.startswith(f"process {of_session} is of the workload's session")
    (warning,) = found.warnings
    assert warning.code == Code.STRAY_PROCESS.value
    assert warning.message.startswith(f"process {shares_socket} (shares-socket)")
