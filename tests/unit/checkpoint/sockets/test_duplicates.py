"""The twin of checkpoint/sockets/duplicates.py, with this process as the tree."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.processes.tree import hold_all
from checkpoint.sockets import duplicates


@pytest.fixture
def this_process():
    tree = hold_all(Kernel(), [os.getpid()])
    yield tree
    tree.close()


def ino(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_each_tcp_socket_is_had_once_by_its_inode(this_process):
    with socket.create_server(("127.0.0.1", 0)) as one, one.dup() as two, socket.socket(socket.AF_INET6) as six:
        inventory, opened = duplicates.looked_for(Kernel(), this_process)
        assert {ino(one), ino(six)} <= set(inventory.connections)
        found = opened.of(ino(one))
        assert {(os.getpid(), one.fileno()), (os.getpid(), two.fileno())} <= set(found.places)
        assert found.sock.fileno() not in (one.fileno(), two.fileno())
        assert found.sock.getsockname() == one.getsockname()
        opened.close()
        assert found.sock.fileno() == -1


def test_what_is_no_tcp_socket_is_no_connection(this_process):
    datagram, unix = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
    with datagram, unix:
        inventory, opened = duplicates.looked_for(Kernel(), this_process)
        assert not {ino(datagram), ino(unix)} & set(inventory.connections)
        assert ino(datagram) in inventory.datagrams
        assert ino(unix) not in inventory.datagrams
        opened.close()


def test_a_descriptor_that_is_gone_by_then_is_passed_over(this_process, monkeypatch):
    with socket.socket() as one, open(os.devnull) as no_socket:
        there = [str(one.fileno()), str(1 << 20), str(no_socket.fileno())]
        monkeypatch.setattr(procfs, "names", lambda _folder: there)
        before = set(Path("/proc/self/fd").iterdir())
        inventory, opened = duplicates.looked_for(Kernel(), this_process)
        assert list(inventory.connections) == [ino(one)]
        opened.close()
        assert set(Path("/proc/self/fd").iterdir()) == before


def test_above_all_descriptors_of_a_process_there_is_none(this_process):
    with socket.socket() as one:
        high = fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 700)
        found, opened = duplicates.looked_for(Kernel(), this_process)
        os.close(high)
        (numbers,) = found.numbers.values()
        assert numbers.above == high + 1
        assert numbers.free >= high - 100
        opened.close()
