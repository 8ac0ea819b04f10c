"""/proc, read about this very process and its children."""

from __future__ import annotations

import os
import subprocess

from checkpoint.processes import procfs
from tests.harness.standing import until


def test_memory_threads_and_namespaces_of_a_process():
    me = os.getpid()
    assert procfs.memory_bytes(me)[0] > 1 << 20
    assert me in procfs.thread_ids()
    assert set(procfs.namespaces(me)) == {"net", "pid", "mnt", "ipc", "uts", "user", "cgroup"}
    assert procfs.namespaces("self") == procfs.namespaces(me)


def test_a_process_that_has_just_ended_has_no_mounts():
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == b""
        until(lambda: procfs.status(process.pid)["State"].startswith("Z"))
        assert procfs.mounts(process.pid) == {}
        assert procfs.mount_ids(process.pid) == set()


def test_a_process_that_is_gone_has_nothing():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    pid = process.pid
    assert procfs.status(pid) == {}
    assert procfs.memory_bytes(pid) == (0, 0)
    assert procfs.namespaces(pid) == {}
    assert procfs.mount_ids(pid) == set()
    assert procfs.link(f"/proc/{pid}/exe") == ""
