from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from proxy.sys import limits, options
from proxy.sys.kernel import Kernel

KERNEL = Kernel()
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="SO_RCVBUFFORCE needs CAP_NET_ADMIN")


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as made:
        there, _ = server.accept()
        with there:
            yield made


def size(sock: socket.socket) -> tuple[int, int]:
    """The receive buffer and which buffers are locked."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), sock.getsockopt(socket.SOL_SOCKET, options.SO_BUF_LOCK)


def test_a_limit_is_set_tightened_and_taken_back(sock: socket.socket) -> None:
    before = size(sock)
    buffer = limits.Buffer()
    buffer.limit(KERNEL, sock, 0, 20_000)
    first = size(sock)
    assert first[0] < before[0]
    buffer.limit(KERNEL, sock, 0, 10_000)
    assert size(sock)[0] < first[0]
    buffer.restore(KERNEL, sock)
    assert size(sock) == before
    buffer.restore(KERNEL, sock)
    assert size(sock) == before


def test_room_enough_is_left_alone(sock: socket.socket) -> None:
    before = size(sock)
    buffer = limits.Buffer()
    buffer.limit(KERNEL, sock, 0, 1 << 30)
    assert size(sock) == before
    buffer.restore(KERNEL, sock)
    assert size(sock) == before


def test_an_application_that_has_set_its_buffer_keeps_it(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
    before = size(sock)
    assert before[1] & 2
    buffer = limits.Buffer()
    buffer.limit(KERNEL, sock, 0, 10_000)
    buffer.restore(KERNEL, sock)
    assert size(sock) == before


def test_a_backlog_is_raised_and_taken_back() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=7) as listener:
        assert limits.raise_backlog(KERNEL, listener) == 7
        assert limits.raise_backlog(KERNEL, listener) == int(KERNEL.read_text("/proc/sys/net/core/somaxconn"))
        limits.restore_backlog(KERNEL, listener, 7)
        assert limits.raise_backlog(KERNEL, listener) == 7


def test_what_is_open_is_not_spare() -> None:
    before = limits.spare_descriptors(KERNEL)
    with socket.socket(), socket.socket():
        assert limits.spare_descriptors(KERNEL) == before - 2
