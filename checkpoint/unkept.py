"""Sockets that a move would harm: found before anything is touched, and named with what would happen to them.

Each is looked at through a duplicate (pidfd_getfd(2)); nothing is read from it, nothing changed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress

from checkpoint import procfs
from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem
from checkpoint.kernel import Kernel

_IPPROTO_MPTCP = 262  # linux/in.h
_TCP_ULP = 31  # linux/tcp.h: the name of what works on top of the connection, "tls" for kernel TLS
_SO_PEERNAME = 28  # asm-generic/socket.h: as getpeername(2), and of a connection that has ended as well


def problems(kernel: Kernel, files: Iterable[procfs.OpenFile]) -> Iterator[Problem]:
    """What stands in the way, socket by socket."""
    seen: set[str] = set()
    for file in files:
        if file.target.startswith("socket:[") and file.target not in seen:
            seen.add(file.target)
            with suppress(OSError), _duplicate(kernel, file) as sock:  # gone meanwhile
                yield from _of(sock)


def _duplicate(kernel: Kernel, file: procfs.OpenFile) -> socket.socket:
    pidfd = kernel.pidfd_open(file.pid)
    try:
        return socket.socket(fileno=kernel.pidfd_getfd(pidfd, file.fd))
    finally:
        os.close(pidfd)


def _of(sock: socket.socket) -> Iterator[Problem]:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if sock.proto == _IPPROTO_MPTCP:
        message = f"{_name(sock)} is Multipath TCP, which cannot be saved: its subflows would end"
        yield problem(Code.UNSUPPORTED_SOCKET, message, hint="Let the workload use plain TCP (GODEBUG=multipathtcp=0).")
    elif sock.type == socket.SOCK_DGRAM:
        if sock.getsockname()[1]:
            message = f"{_name(sock)} is UDP: what peers send to the old address would be lost"
            yield problem(Code.UNSUPPORTED_SOCKET, message, hint="Let the workload close it before the move.")
    elif sock.proto == socket.IPPROTO_TCP:
        yield from _of_tcp(sock)


def _of_tcp(sock: socket.socket) -> Iterator[Problem]:
    if sock.getsockopt(socket.IPPROTO_TCP, _TCP_ULP, 16).rstrip(b"\0") == b"tls":
        message = f"{_name(sock)} has kernel TLS, whose keys cannot be saved: its bytes would be garbage"
        yield problem(
            Code.UNSUPPORTED_SOCKET, message, hint="Let the workload do TLS itself (nginx: ssl_conf_command)."
        )
    if _is_urgent(sock):
        message = f"{_name(sock)} has urgent data that nobody has read: it would be lost"
        yield problem(Code.CONNECTION_STATE, message, hint="It moves once the workload has read it.")


def _is_urgent(sock: socket.socket) -> bool:
    """recv(2): EINVAL when there is no urgent byte, EAGAIN when one is announced, which is as bad."""
    try:
        return bool(sock.recv(1, socket.MSG_OOB | socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _name(sock: socket.socket) -> str:
    peer = _peer(sock)
    local = _end(*sock.getsockname()[:2])
    return f"the connection {local} to {peer}" if peer else f"the socket {local}"


def _peer(sock: socket.socket) -> str:
    """The other end's address and port; "" where there is none."""
    six = sock.family == socket.AF_INET6
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERNAME, 28 if six else 16)  # struct sockaddr_in6, sockaddr_in
    except OSError:
        return ""
    (port,) = struct.unpack_from("!H", raw, 2)
    return _end(socket.inet_ntop(sock.family, raw[8:24] if six else raw[4:8]), port) if port else ""


def _end(host: str, port: int) -> str:
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
