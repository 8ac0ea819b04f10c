"""The twin of checkpoint/inspection/descriptors.py, on this process's own descriptors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Collection

import pytest

from checkpoint.inspection import descriptors
from checkpoint.processes import procfd

LIBC = ctypes.CDLL(None, use_errno=True)


def words(fd: int, processes: Collection[int] = ()) -> str:
    """What is said of one descriptor of ours, in brackets."""
    files = [file for file in procfd.open_files(os.getpid()) if file.fd == fd]
    found = [one.message for one in descriptors.problems(files, [os.getpid(), *processes])]
    os.close(fd)
    return found[0].split("(", 1)[1].removesuffix(")") if found else ""


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/urandom", "/proc/self/stat", "/proc/pressure/memory"])
def test_what_is_opened_anew_by_its_path(path):
    assert words(os.open(path, os.O_RDONLY)) == ""


def test_a_file_of_a_thread_is_not_there_yet_but_that_of_the_first_is():
    pid = os.getpid()
    assert words(os.open(f"/proc/{pid}/task/{pid}/stat", os.O_RDONLY)) == ""
    file = procfd.OpenFile(pid, 0, f"/proc/{pid}/task/{pid + 1}", 0, (), -1)
    (found,) = descriptors.problems([file], [pid])
    assert f"/proc/{pid}/task/{pid + 1}, of a thread, which is not there yet" in found.message


@pytest.mark.parametrize("target", ["/proc/pressure/io", "/sys/fs/cgroup/a/b/memory.pressure"])
def test_a_trigger_is_lost_where_there_may_be_one(target):
    files = [procfd.OpenFile(os.getpid(), 0, target, 0, (), -1, flags) for flags in (os.O_RDONLY, os.O_RDWR)]
    said = [one.message for file in files for one in descriptors.problems([file], [])]
    assert [f"{target}, whose trigger would be lost" in message for message in said] == [False, True]


def test_timers_and_events():
    assert words(LIBC.timerfd_create(time.CLOCK_MONOTONIC, 0)) == ""
    assert words(os.eventfd(5)) == ""
    assert descriptors._timerfd(["clockid: 8", "ticks: 0"], ()) != ""
    assert descriptors._eventfd(["eventfd-id: 1", "eventfd-semaphore: 1"], ()) != ""


def test_who_a_pidfd_may_be_of():
    ours = os.getpid()
    assert words(os.pidfd_open(ours)) == ""
    with subprocess.Popen(["sleep", "1000"]) as child:
        fds = [os.pidfd_open(child.pid) for _ in range(4)]
        assert words(fds[0], [child.pid]) == ""
        assert words(fds[1]).endswith(f"a pidfd of process {child.pid}, which is outside the workload")
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert words(fds[2]) == ""  # it will be reaped by its parent's copy
    assert words(fds[3]) == ""
    assert descriptors._pidfd(["flags:\t02000202", "Pid:\t7"], [7]) == "a pidfd of a thread, PIDFD_THREAD"
    assert descriptors._pidfd(["flags:\t02000002", "Pid:\t0"], [7]) == "a pidfd of a process outside the pod"
