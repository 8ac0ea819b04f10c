"""The twin of checkpoint/sockets/unkept.py, on this process's own sockets."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import procfd
from checkpoint.processes.tree import Member, Tree
from checkpoint.sockets import procnet, sockdiag, unkept
from checkpoint.sockets.inventory import IPPROTO_MPTCP


def words(sock: socket.socket, *, replaces: bool = True) -> list[str]:
    """What is said of one socket."""
    file = procfd.OpenFile(os.getpid(), sock.fileno(), f"socket:[{os.fstat(sock.fileno()).st_ino}]", 0, False, -1)
    return [one.problem.message for one in unkept.look(Kernel(), [file, file], replaces=replaces)]


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def pair(request):
    family, host = request.param
    with socket.create_server((host, 0), family=family) as server:
        one = socket.create_connection(server.getsockname()[:2])
        other = server.accept()[0]
    with one, other:
        yield one, other


def test_plain_sockets_are_fine(pair):
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as udp:
        assert [words(sock) for sock in (*pair, unix, idle, udp)] == [[]] * 5


def test_multipath_tcp():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as sock:
        makes_do = "after the move for plain TCP alone, which whoever connects makes do with"
        assert words(sock) == [f"the socket 0.0.0.0:0 is for Multipath TCP: {makes_do}"]
        barred = "which cannot be saved of a workload with filters of its system calls"
        assert words(sock, replaces=False) == [f"the socket 0.0.0.0:0 is Multipath TCP, {barred}"]


def test_signed_connections():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as one:
        sign(server)
        assert "is signed (TCP-MD5), and its keys cannot be saved: it would take unsigned" in words(server)[0]
        one.settimeout(30)
        sign(one, server.getsockname()[1])
        one.connect(server.getsockname())
        with server.accept()[0] as other:
            name = f"the connection {ends(other)} to {ends(one)} is signed (TCP-MD5)"
            assert words(other) == [f"{name}, and its keys cannot be saved: it would be reset"]
            assert sockdiag.signing() >= {os.fstat(sock.fileno()).st_ino for sock in (server, one, other)}


def test_udp_sockets_that_share_a_port_are_named_and_those_that_are_connected_are_not():
    def made(port, peer=None):
        sock = socket.socket(type=socket.SOCK_DGRAM)
        opened.append(sock)
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # only now: else any two may get the same port
        if peer:
            sock.connect(peer)
        return sock.getsockname()

    opened: list[socket.socket] = []
    shared, alone = made(0), made(0)
    made(shared[1]), made(alone[1], shared)
    inodes = {os.fstat(sock.fileno()).st_ino for sock in opened}
    said = [one.message for one in unkept.shared_ports(line for line in procnet.udp_lines() if line.ino in inodes)]
    for sock in opened:
        sock.close()
    assert said == [f"2 UDP sockets share 127.0.0.1:{shared[1]}: a peer of one may be heard by another after the move"]


def test_a_kernel_without_sock_diag_shows_no_signer(monkeypatch):
    def refuse():
        raise OSError(93, "no such protocol")

    monkeypatch.setattr(sockdiag, "signing", refuse)
    assert unkept._asked(sockdiag.signing, set) == set()


def test_what_can_be_moved_without_is_given_up(pair):
    one, other = pair
    other.send(b"!", socket.MSG_OOB)
    assert "urgent data" in words(one)[0]
    member = Member(os.getpid(), 0, -1)
    assert "urgent data" in unkept.given_up(Kernel(), Tree([member]))[os.fstat(one.fileno()).st_ino]


def sign(sock: socket.socket, port: int = 0) -> None:
    """TCP_MD5SIG for whatever comes from, or goes to, 127.0.0.1 (struct tcp_md5sig)."""
    end = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s120x", port, socket.inet_aton("127.0.0.1"))
    sock.setsockopt(socket.IPPROTO_TCP, 14, end + struct.pack("=BBHi80s", 0, 0, 4, 0, b"key!"))


def ends(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"


def test_urgent_data(pair):
    one, other = pair
    other.send(b"!", socket.MSG_OOB)
    assert "urgent data" in words(one)[0]
    assert one.recv(1, socket.MSG_OOB) == b"!"  # looking did not take it
    assert words(one) == []


def test_a_connection_that_was_reset_is_fine_and_still_says_so(pair):
    one, other = pair
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    assert words(one) == []
    with pytest.raises(ConnectionResetError):
        one.recv(1)


def test_a_descriptor_that_is_gone_is_passed_over():
    gone = procfd.OpenFile(os.getpid(), 987, "socket:[1]", 0, False, -1)
    assert list(unkept.look(Kernel(), [gone])) == []
