"""The twin of proxy/sys/error_queue.py."""

from __future__ import annotations

import select
import socket

from proxy.sys import error_queue


def test_an_icmp_error_is_taken_out_and_what_came_stays():
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as nobody:
        for sock in (nobody, one):
            sock.bind(("127.0.0.1", 0))
        closed = nobody.getsockname()
        nobody.close()
        one.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        one.sendto(b"to itself", one.getsockname())
        one.sendto(b"to nobody", closed)
        watched = select.poll()
        watched.register(one, select.POLLIN)
        assert watched.poll(30_000) == [(one.fileno(), select.POLLIN | select.POLLERR)]
        assert error_queue.emptied(one)
        assert watched.poll(0) == [(one.fileno(), select.POLLIN)]
        assert not error_queue.emptied(one)
        assert one.recv(20) == b"to itself"


def test_of_another_family_nothing_is_read():
    """A unix socket takes the flag for nothing, and would give its stream."""
    one, other = socket.socketpair()
    with one, other:
        other.send(b"stream")
        assert not error_queue.emptied(one)
        assert one.recv(20) == b"stream"
