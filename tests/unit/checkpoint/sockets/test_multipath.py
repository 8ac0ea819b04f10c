"""The twin of checkpoint/sockets/multipath.py, with sockets of this process."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator

import pytest

from checkpoint.core import readdress
from checkpoint.kernel import Kernel
from checkpoint.processes.tree import hold_all
from checkpoint.sockets import duplicates, multipath, sockopts
from checkpoint.sockets.inventory import IPPROTO_MPTCP
from checkpoint.sockets.multipath import LastConnections

HOSTS = {socket.AF_INET: ("127.0.0.1", (0x0100007F,)), socket.AF_INET6: ("::1", (0, 0, 0, 0x01000000))}


def made(family: int) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError:
        pytest.skip("this kernel has no Multipath TCP")


@pytest.fixture(params=HOSTS, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    chosen: socket.AddressFamily = request.param
    return chosen


@pytest.fixture
def listener(family: socket.AddressFamily) -> Iterator[socket.socket]:
    with made(family) as sock:
        sock.bind((HOSTS[family][0], 0))
        sock.listen(50)
        yield sock


@pytest.fixture
def ends(family: socket.AddressFamily, listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, which speak it."""
    with made(family) as client:
        client.connect(listener.getsockname())
        with listener.accept()[0] as accepted:
            yield client, accepted


@pytest.mark.parametrize("yes", [False, True])
def test_a_listener_is_replaced_by_one_like_it(family, listener, *, yes: bool):
    listener.setblocking(yes)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        listener.setsockopt(socket.SOL_SOCKET, option, yes)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000)
    found = multipath.in_place_of(7, listener)
    assert (found.ino, found.state, found.backlog) == (7, readdress.LISTEN, 50)
    assert (found.words, found.port) == (HOSTS[family][1], listener.getsockname()[1])
    assert found.flags == fcntl.fcntl(listener, fcntl.F_GETFL)
    assert bool(found.flags & os.O_NONBLOCK) is not yes
    assert (found.send_buffer, found.receive_buffer) == (60_000, 80_000), "as getsockopt(2) says them: doubled"
    assert (found.reuse_address, found.reuse_port) == (yes, yes)


@pytest.mark.parametrize("only", [False, True])
def test_a_listener_of_both_families_stays_one_of_both(only: bool):
    with made(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        sock.bind(("::", 0))
        sock.listen()
        assert multipath.in_place_of(7, sock).six_only is only


def test_a_connection_is_replaced_by_a_socket_that_has_none(ends, family):
    for sock in ends:
        assert multipath.is_connected(sock)
        assert not multipath.listens(sock)
        found = multipath.in_place_of(7, sock)
        assert (found.state, found.port, found.backlog) == (readdress.CLOSE, 0, 0)
        assert found.words == (0,) * len(HOSTS[family][1])


def test_what_has_no_peer_is_not_connected(listener, family):
    with made(family) as fresh:
        assert not multipath.is_connected(listener)
        assert not multipath.is_connected(fresh)


def test_the_last_connections_are_reset_whoever_else_has_them_open(ends):
    """As the stopped processes at the source do."""
    client, accepted = ends
    last = LastConnections(Kernel())
    last.keep(iter([accepted]))
    client.sendall(b"still here")
    assert accepted.recv(10, socket.MSG_WAITALL) == b"still here"
    last.cut()
    client.settimeout(20)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    last.cut()


def test_taken_back_they_go_on(ends):
    client, accepted = ends
    last = LastConnections(Kernel())
    last.keep([accepted])
    last.close()
    last.cut()
    client.sendall(b"on")
    assert accepted.recv(2, socket.MSG_WAITALL) == b"on"


def test_what_was_set_of_one_is_set_of_what_replaces_it(family):
    """What CRIU saves of others too: it sees nothing of these."""
    tree = hold_all(Kernel(), [os.getpid()])
    with made(family) as sock, made(family) as fresh, socket.socket(family) as plain:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
        inventory, opened = duplicates.looked_for(Kernel(), tree)
        try:
            found = {one.fd: one.options for one in sockopts.read(map(opened.of, inventory.multipath))}
        finally:
            opened.close()
        assert {name for name, *_ in found.pop(sock.fileno())} == {
            "SO_KEEPALIVE",
            "TCP_NODELAY",
            "TCP_KEEPIDLE",
            "SO_PRIORITY",
        }
        assert fresh.fileno() not in found
        assert plain.fileno() not in found
    tree.close()
