"""The twin of checkpoint/sockets/sockopts.py, with this process as the tree."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from checkpoint.core.sockopts import SocketOptions
from checkpoint.kernel import Kernel
from checkpoint.processes.tree import hold_all
from checkpoint.sockets import duplicates, sockopts


@pytest.fixture
def this_process():
    tree = hold_all(Kernel(), [os.getpid()])
    yield tree
    tree.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_what_is_read_from_one_socket_is_set_on_another(this_process, family):
    with socket.socket(family) as one, socket.socket(family) as other, socket.socket(family, socket.SOCK_DGRAM):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4321)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        one.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x28)
        inventory, opened = duplicates.looked_for(Kernel(), this_process)
        try:
            everything = sockopts.read(map(opened.of, inventory.connections))
        finally:
            opened.close()
        (found,) = [each for each in everything if each.fd == one.fileno()]
        assert found.pid == os.getpid()
        assert not [each for each in everything if each.fd == other.fileno()]
        moved = SocketOptions(found.pid, other.fileno(), found.options)
        assert sockopts.write(Kernel(), this_process, [moved]) == []
        assert other.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4321
        assert other.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
        assert other.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x28
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == one.getsockopt(
            socket.SOL_SOCKET, socket.SO_PRIORITY
        )


def test_the_owner_is_carried_where_it_is_another(this_process):
    with socket.socket() as one, socket.socket() as other:
        os.fchown(one.fileno(), 1234, 5678)
        inventory, opened = duplicates.looked_for(Kernel(), this_process)
        try:
            (found,) = [
                each
                for each in sockopts.read(map(opened.of, inventory.connections))
                if each.fd in (one.fileno(), other.fileno())
            ]
        finally:
            opened.close()
        assert found == SocketOptions(os.getpid(), one.fileno(), [], (1234, 5678))
        assert (
            sockopts.write(Kernel(), this_process, [SocketOptions(os.getpid(), other.fileno(), [], found.owner)]) == []
        )
        assert sockopts.owner_of(other) == (1234, 5678)


def test_an_owner_who_is_not_allowed_is_named(this_process, monkeypatch):
    """As in a pod without CAP_CHOWN."""

    def refuse(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with socket.socket() as sock:
        wanted = [SocketOptions(os.getpid(), sock.fileno(), [], (1234, 5678))]
        (words,) = sockopts.write(Kernel(), this_process, wanted)
    assert words == f"the owner of descriptor {wanted[0].fd} of process {os.getpid()}: Operation not permitted"


def test_what_cannot_be_set_is_named_and_the_rest_is_set(this_process):
    with socket.socket() as sock:
        options = [("TCP_CONGESTION", 6, 13, b"nonsense".hex()), ("TCP_SYNCNT", 6, 7, "03000000")]
        failed = sockopts.write(Kernel(), this_process, [SocketOptions(os.getpid(), sock.fileno(), options)])
        assert len(failed) == 1
        assert failed[0].startswith(f"TCP_CONGESTION of descriptor {sock.fileno()} of process {os.getpid()}: No such")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT) == 3


def test_clamps_and_segment_sizes_of_listeners_and_of_connections(this_process):
    """A listener's go on to what it accepts; a connection's own clamp only if somebody has set it."""
    with socket.socket() as listener, socket.create_server(("127.0.0.1", 0)) as plain:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 20_000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 700)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with (
            socket.create_connection(listener.getsockname()) as client,
            socket.create_connection(plain.getsockname()) as other,
            listener.accept()[0] as accepted,
        ):
            inventory, opened = duplicates.looked_for(Kernel(), this_process)
            try:
                found = {one.fd: {name: value for name, _, _, value in one.options}
                         for one in sockopts.read(map(opened.of, inventory.connections))}  # fmt: skip
            finally:
                opened.close()
            number = {one: found.get(one.fileno()) for one in (listener, accepted, plain, client, other)}
    clamp, segment = (value.to_bytes(4, sys.byteorder).hex() for value in (20_000, 700))
    assert number[listener] == {"TCP_WINDOW_CLAMP": clamp, "TCP_MAXSEG": segment, "SO_PRIORITY": "00000000"}
    assert number[accepted] == {"TCP_WINDOW_CLAMP": clamp}
    assert number[plain] is number[client] is number[other] is None
