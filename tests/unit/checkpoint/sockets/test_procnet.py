"""The sockets of this very process, as /proc has them."""

from __future__ import annotations

import os
import socket
import subprocess

from checkpoint.core.readdress import ESTABLISHED, LISTEN
from checkpoint.sockets import procnet


def test_sockets_are_seen_in_both_families():
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_connection(four.getsockname()) as client,
    ):
        lines = {line.ino: line for line in procnet.tcp_lines()}
        inode = {sock: os.fstat(sock.fileno()).st_ino for sock in (four, six, client)}
        assert (lines[inode[four]].local, lines[inode[four]].state) == (four.getsockname(), LISTEN)
        assert lines[inode[six]].local == six.getsockname()[:2]
        assert (lines[inode[client]].peer, lines[inode[client]].state) == (four.getsockname(), ESTABLISHED)
        assert four.getsockname()[1] in procnet.listening_ports()


def test_a_process_that_is_gone_has_none():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert list(procnet.tcp_lines(process.pid)) == []
