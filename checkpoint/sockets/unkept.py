"""Sockets that a move would harm: found before anything is touched, and named with what would happen to them.

Each is looked at through a duplicate (pidfd_getfd(2)); nothing is read from it, nothing changed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.processes.tree import Tree
from checkpoint.sockets import profile, sockdiag

T = TypeVar("T")

ALLOW = "say --allow-loss to move the rest without it."
_IPPROTO_MPTCP = 262  # linux/in.h
_TCP_AO_INFO = 40  # linux/tcp.h
_SAVED = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET)
"""The families whose sockets CRIU saves (criu: sockets.c, collect_sockets)."""


@dataclass(frozen=True)
class Unkept:
    """A socket that would not move as it is."""

    ino: int
    problem: Problem
    movable: bool
    """Whether the rest can be moved without it: a connection ends with a reset at both ends."""


def look(kernel: Kernel, files: Iterable[procfs.OpenFile]) -> Iterator[Unkept]:
    """What stands in the way, socket by socket."""
    sockets = {int(file.target[8:-1]): file for file in files if file.target.startswith("socket:[")}
    signing: set[int] = _asked(sockdiag.signing, set)
    partners: dict[int, int] = _asked(sockdiag.partners, dict)
    for ino, file in sockets.items():
        with suppress(OSError), _duplicate(kernel, file) as sock:  # gone meanwhile
            if sock.family == socket.AF_UNIX:
                if (partner := partners.get(ino)) and partner not in sockets:
                    yield Unkept(ino, _outside(file, sock), movable=False)
            else:
                yield from (Unkept(ino, found, movable) for found, movable in _of(file, sock, ino in signing))


def given_up(kernel: Kernel, tree: Tree) -> dict[int, str]:
    """Why each socket of a stopped tree that the rest can be moved without cannot be kept, by inode."""
    files = (file for member in tree.members for file in procfs.open_files(member.pid))
    return {one.ino: one.problem.message for one in look(kernel, files) if one.movable}


def _asked(question: Callable[[], T], without: Callable[[], T]) -> T:
    try:
        return question()
    except OSError:  # a kernel without sock_diag
        return without()


def _duplicate(kernel: Kernel, file: procfs.OpenFile) -> socket.socket:
    pidfd = kernel.pidfd_open(file.pid)
    try:
        return socket.socket(fileno=kernel.pidfd_getfd(pidfd, file.fd))
    finally:
        os.close(pidfd)


def _outside(file: procfs.OpenFile, sock: socket.socket) -> Problem:
    """Of a unix socket whose other end is somebody else's: the system's log, a database beside it."""
    names = [name if isinstance(name, str) else f"@{name[1:].decode(errors='replace')}"
             for name in (sock.getpeername(), sock.getsockname()) if name]  # fmt: skip
    way = f"connected by {names[0]}" if names else "connected"
    message = f"a unix socket of process {file.pid} (fd {file.fd}) is {way} to a process outside the workload"
    return problem(Code.UNSUPPORTED_SOCKET, message, hint="Let the workload close it, or move both as one workload.")


def _of(file: procfs.OpenFile, sock: socket.socket, signs: bool) -> Iterator[tuple[Problem, bool]]:
    """Each problem, and whether the rest can be moved without the socket."""
    if sock.family not in _SAVED:
        message = f"a socket of process {file.pid} (fd {file.fd}) is of family {sock.family}, which cannot be saved"
        yield problem(Code.UNSUPPORTED_SOCKET, message), False
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if sock.proto == _IPPROTO_MPTCP:
        message = f"{_name(sock)} is Multipath TCP, which cannot be saved: its subflows would end"
        hint = "Let the workload use plain TCP (GODEBUG=multipathtcp=0)."
        yield problem(Code.UNSUPPORTED_SOCKET, message, hint=hint), False
    elif sock.proto == socket.IPPROTO_TCP:
        for code, message, hint in _of_tcp(sock, signs):
            yield problem(code, message, hint=f"{hint}, or {ALLOW}"), True


def _of_tcp(sock: socket.socket, signs: bool) -> Iterator[tuple[Code, str, str]]:
    if profile.upper_protocol(sock) == b"tls":
        message = f"{_name(sock)} has kernel TLS, whose keys cannot be saved: it would be reset"
        yield Code.UNSUPPORTED_SOCKET, message, "Let the workload do TLS itself (nginx: ssl_conf_command)"
    signature = "TCP-MD5" if signs else "TCP-AO" if _has_ao(sock) else ""
    if signature:
        fate = "it would be reset" if _peer(sock) else "it would take unsigned connections"
        message = f"{_name(sock)} is signed ({signature}), and its keys cannot be saved: {fate}"
        yield Code.UNSUPPORTED_SOCKET, message, "Let the workload close it"
    if _is_urgent(sock):
        message = f"{_name(sock)} has urgent data that nobody has read, which cannot be saved: it would be reset"
        yield Code.CONNECTION_STATE, message, "It moves once the workload has read it"


def _has_ao(sock: socket.socket) -> bool:
    """TCP-AO keys (RFC 5925): ENOENT where there are none, ENOPROTOOPT where the kernel knows of none."""
    try:
        sock.getsockopt(socket.IPPROTO_TCP, _TCP_AO_INFO, 64)
    except OSError:
        return False
    return True


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
        raw = profile.peer_of(sock)
    except OSError:
        return ""
    (port,) = struct.unpack_from("!H", raw, 2)
    return _end(socket.inet_ntop(sock.family, raw[8:24] if six else raw[4:8]), port) if port else ""


def _end(host: str, port: int) -> str:
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
