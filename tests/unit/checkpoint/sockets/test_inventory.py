"""What a child has open, as the kernel says it when it is asked, and as it is found one by one."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.processes.openfiles import OpenFiles
from checkpoint.processes.tree import Tree, hold_all
from checkpoint.sockets import duplicates, inventory, live
from checkpoint.sockets.duplicates import OpenSocket, OpenSockets
from tests.harness.told_child import ToldChild

EVERYTHING = """
listener = socket.create_server(("127.0.0.1", 0))
six = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
peers = [socket.create_connection(("127.0.0.1", one.getsockname()[1])) for one in (listener, six)]
ends = [one.accept()[0] for one in (listener, six)]
again, unconnected = ends[0].dup(), socket.socket()
datagram, local, raw = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX), socket.socket(16, 3)
multipath = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
epoll, pipe = select.epoll(), os.pipe()
fcntl.fcntl(again.fileno(), fcntl.F_SETFD, 0)
high = fcntl.fcntl(0, fcntl.F_DUPFD, 90)
"""


@pytest.fixture
def child() -> Iterator[ToldChild]:
    made = ToldChild()
    for line in EVERYTHING.strip().splitlines():
        made.tell(line)
    yield made
    made.close()


@pytest.fixture
def tree(child: ToldChild) -> Iterator[Tree]:
    child.fork()
    held = hold_all(Kernel(), child.pids)
    yield held
    held.close()


def test_the_kernel_says_what_is_found_one_by_one(open_files: OpenFiles, tree: Tree):
    said = inventory.asked(open_files, tree)
    found, sockets = duplicates.looked_for(Kernel(), tree)
    sockets.close()
    assert said is not None
    assert len(said.connections) == 7
    assert {len(places) for places in said.connections.values()} == {2, 4}, "in both processes, and one twice"
    for name in ("connections", "multipath", "datagrams", "local", "epolls", "numbers"):
        assert getattr(said, name) == getattr(found, name), name
        assert getattr(said, name)


def test_what_is_closed_on_exec_is_known_of_each_place(open_files: OpenFiles, child: ToldChild, tree: Tree):
    said = inventory.asked(open_files, tree)
    assert said is not None
    open_on = {place for places in said.connections.values() for place in places} - said.closed_on_exec
    assert open_on == {(pid, child.fd["again"]) for pid in child.pids}


def test_one_that_is_known_is_duplicated_when_it_is_asked_for(open_files: OpenFiles, tree: Tree):
    said = inventory.asked(open_files, tree)
    assert said is not None
    before = len(procfs.names("/proc/self/fd"))
    at_once = OpenSockets(Kernel(), tree, said)
    _, one_by_one = duplicates.looked_for(Kernel(), tree)
    try:
        found = {ino: described(at_once.of(ino)) for ino in (*said.streams, *said.datagrams)}
        assert found == {ino: described(one_by_one.of(ino)) for ino in found}
        assert {each for each in found if at_once.of(each) is at_once.of(each)} == found.keys()
    finally:
        at_once.close()
        one_by_one.close()
    assert len(procfs.names("/proc/self/fd")) == before


def described(one: OpenSocket) -> tuple[object, ...]:
    sock = one.sock
    return one.places, sock.family, sock.type, sock.proto, sock.getsockname()


def test_what_is_not_there_cannot_be_duplicated(open_files: OpenFiles, child: ToldChild, tree: Tree):
    said = inventory.asked(open_files, tree)
    assert said is not None
    ino = max(said.connections)
    said.connections[ino] = [(child.pid, 1 << 20)]  # nobody has that
    sockets = OpenSockets(Kernel(), tree, said)
    with pytest.raises(OSError, match="Bad file descriptor"):
        sockets.of(ino)
    with pytest.raises(KeyError):
        sockets.of(1)


def test_both_say_the_same_of_connections_of_every_state(open_files: OpenFiles):
    """Some of them have something unread, or that is urgent, or have ended in one way or the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peers = [socket.create_connection(listener.getsockname()) for _ in range(9)]
        ends = [listener.accept()[0] for _ in peers]
        child = ToldChild(*(one.fileno() for one in ends))
        for one in ends[1:]:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peers[1].sendall(b"hello")
        ends[1].recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
        peers[2].sendall(bytes(3000))
        ends[2].recv(1000, socket.MSG_WAITALL)
        ends[2].recv(2000, socket.MSG_PEEK | socket.MSG_WAITALL)
        peers[3].send(b"!", socket.MSG_OOB)
        peers[4].shutdown(socket.SHUT_WR)
        assert ends[4].recv(1) == b""
        ends[5].shutdown(socket.SHUT_RD)
        ends[6].shutdown(socket.SHUT_WR)
        peers[7].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        peers[7].close()
        peers[8].sendall(b"last")
        peers[8].shutdown(socket.SHUT_WR)
        ends[8].recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
        held = hold_all(Kernel(), child.pids)
        try:
            said = inventory.asked(open_files, held)
            found, sockets = duplicates.looked_for(Kernel(), held)
            unread = dict(live.unread({ino: sockets.of(ino).sock for ino in found.connections}))
            sockets.close()
            assert said is not None
            assert dict(said.unread()) == unread
            assert sorted(unread.values()) == [0, 5, 2000]
        finally:
            held.close()
            child.close()
            for one in (*peers, *ends):
                one.close()


def test_who_cannot_be_asked_says_nothing(unasked: OpenFiles, tree: Tree):
    assert inventory.asked(unasked, tree) is None


def test_what_fails_is_found_one_by_one(open_files: OpenFiles, tree: Tree, monkeypatch, caplog):
    def fail(_pidfd: int) -> None:
        raise ValueError("the kernel has not told all")

    monkeypatch.setattr(open_files, "of", fail)
    caplog.set_level(logging.WARNING)
    assert inventory.asked(open_files, tree) is None
    assert "not told all" in caplog.text
