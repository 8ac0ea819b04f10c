from __future__ import annotations

import socket
from pathlib import Path

from proxy.sys import options
from proxy.sys.kernel import Kernel

KERNEL = Kernel()


def test_options_go_through() -> None:
    with KERNEL.tcp_socket(socket.AF_INET) as sock:
        assert not sock.getblocking()
        KERNEL.set_int(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert KERNEL.get_int(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        KERNEL.set_bytes(sock, socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
        assert KERNEL.get_bytes(sock, socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)


def test_queues_are_measured() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, KERNEL.tcp_socket(socket.AF_INET) as sock:
        KERNEL.bind(sock, ("127.0.0.1", 0))
        sock.setblocking(True)
        KERNEL.connect(sock, server.getsockname())
        there, _ = server.accept()
        with there:
            there.sendall(b"12345")
            assert sock.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL) == b"12345"
            assert KERNEL.queued(sock, options.SIOCINQ) == 5
        KERNEL.listen(server, 5)


def test_an_adopted_descriptor_keeps_its_flags() -> None:
    with socket.socket() as sock, KERNEL.adopted(sock.dup().detach()) as same:
        assert same.getblocking()
        assert same.family == socket.AF_INET


def test_files(tmp_path: Path) -> None:
    KERNEL.write_text(str(tmp_path / "one"), "1\n")
    assert KERNEL.read_text(str(tmp_path / "one")) == "1\n"
    assert KERNEL.names_in(str(tmp_path)) == ["one"]
