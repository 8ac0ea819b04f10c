"""The one seam to the operating system: whatever the proxy asks of a socket or of /proc goes through a `Kernel`.

The data path's recv_into and send do not: they are on plain sockets in `proxy.io.relay`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from pathlib import Path

_NO_INT = bytes(4)


class Kernel:
    """Thin on purpose: one method, one system call. OSError passes through; the callers translate it."""

    def get_int(self, sock: socket.socket, level: int, option: int) -> int:
        """An int option as the kernel has it: signed; mask it where it is a sequence number."""
        return sock.getsockopt(level, option)

    def get_bytes(self, sock: socket.socket, level: int, option: int, size: int) -> bytes:
        return sock.getsockopt(level, option, size)

    def set_int(self, sock: socket.socket, level: int, option: int, value: int) -> None:
        sock.setsockopt(level, option, value)

    def set_bytes(self, sock: socket.socket, level: int, option: int, value: bytes) -> None:
        sock.setsockopt(level, option, value)

    def queued(self, sock: socket.socket, request: int) -> int:
        """SIOCINQ and its like: bytes in a queue."""
        return int.from_bytes(fcntl.ioctl(sock.fileno(), request, _NO_INT), sys.byteorder)

    def tcp_socket(self, family: int) -> socket.socket:
        """A non-blocking one."""
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)

    def udp_socket(self, family: int) -> socket.socket:
        """A non-blocking one."""
        return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.IPPROTO_UDP)

    def adopted(self, descriptor: int) -> socket.socket:
        """A socket of a descriptor that came from elsewhere; its flags stay (they are shared with the workload)."""
        return socket.socket(fileno=descriptor)

    def bind(self, sock: socket.socket, address: tuple[str, int]) -> None:
        sock.bind(address)

    def connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        sock.connect(address)

    def listen(self, sock: socket.socket, backlog: int) -> None:
        sock.listen(backlog)

    def read_text(self, path: str) -> str:
        return Path(path).read_text()

    def write_text(self, path: str, text: str) -> None:
        Path(path).write_text(text)

    def names_in(self, path: str) -> list[str]:
        return os.listdir(path)  # noqa: PTH208  a Path for each of thousands takes ten times as long

    def size_of(self, path: str) -> int:
        return Path(path).stat().st_size
