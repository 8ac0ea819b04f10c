"""/proc, read about this very process and its children."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess

from checkpoint.core.readdress import ESTABLISHED, LISTEN
from checkpoint.processes import procfs
from tests.harness.standing import until


def test_sockets_are_seen_in_both_families():
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_connection(four.getsockname()) as client,
    ):
        lines = {line.ino: line for line in procfs.tcp_lines()}
        inode = {sock: os.fstat(sock.fileno()).st_ino for sock in (four, six, client)}
        assert (lines[inode[four]].local, lines[inode[four]].state) == (four.getsockname(), LISTEN)
        assert lines[inode[six]].local == six.getsockname()[:2]
        assert (lines[inode[client]].peer, lines[inode[client]].state) == (four.getsockname(), ESTABLISHED)
        assert four.getsockname()[1] in procfs.listening_ports()


def test_an_open_file_shows_its_mount_and_its_lock(tmp_path):
    with open(tmp_path / "f", "w") as file:
        (found,) = [one for one in procfs.open_files(os.getpid()) if one.fd == file.fileno()]
        assert (found.target, found.locks) == (str(tmp_path / "f"), ())
        assert found.mount in procfs.mount_ids(os.getpid())
        fcntl.flock(file, fcntl.LOCK_EX)
        (found,) = [one for one in procfs.open_files(os.getpid()) if one.fd == file.fileno()]
        assert found.locks == (procfs.HeldLock("FLOCK", True),)


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
    assert list(procfs.open_files(pid)) == []
    assert list(procfs.tcp_lines(pid)) == []
    assert procfs.link(f"/proc/{pid}/exe") == ""
