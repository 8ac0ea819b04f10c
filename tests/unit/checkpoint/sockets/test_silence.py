"""A process whose connections have been silenced is killed, and its peer hears nothing of that."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes.tree import hold_all
from checkpoint.sockets.silence import silence

_PROGRAM = """
import socket, sys
more = socket.create_server(("127.0.0.1", 0)), socket.socketpair(), socket.socket(type=socket.SOCK_DGRAM)
connected = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connected.sendall(b"!")
sys.stdin.read()
"""


@pytest.mark.parametrize("silenced", [True, False])
def test_its_peer_hears_nothing(silenced):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(listener.getsockname()[1])]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as process, listener.accept()[0] as peer:
            assert peer.recv(1) == b"!"
            os.kill(process.pid, signal.SIGSTOP)
            tree = hold_all(Kernel(), [process.pid])
            if silenced:
                silence(Kernel(), tree)
            tree.close()
            process.kill()
            process.wait()
            peer.setblocking(False)
            if silenced:
                with pytest.raises(BlockingIOError):
                    peer.recv(1)
            else:
                assert peer.recv(1) == b"", "that is what it hears else"


def test_a_process_that_has_gone_has_none():
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        tree = hold_all(Kernel(), [process.pid])
        process.kill()
        process.wait()
        silence(Kernel(), tree)
        tree.close()
