"""Sockets that a move would harm: found before anything is touched, and named with what would happen to them.

Each is looked at through a duplicate (pidfd_getfd(2)); nothing is read from it, nothing changed.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TypeVar

from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem
from checkpoint.kernel import Kernel
from checkpoint.processes import procfd, procfs
from checkpoint.processes.tree import Tree
from checkpoint.sockets import multipath, procnet, profile, sockdiag
from checkpoint.sockets.duplicates import is_multipath, sockets_of

T = TypeVar("T")

ALLOW = "say --allow-loss to move the rest without it."
_KIND = (socket.SO_DOMAIN, socket.SO_TYPE, socket.SO_PROTOCOL)
_UDP_CORK = 1  # linux/udp.h
_SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS, _GROUPS_BYTES = 270, 9, 64  # linux/netlink.h
_TCP_AO_INFO = 40  # linux/tcp.h
_SAVED = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET)
"""The families whose sockets CRIU saves (criu: sockets.c, collect_sockets)."""


class Fate(Enum):
    """Of such a socket, in a move."""

    BARRED = "barred"
    """There is none."""
    RESET = "reset"
    """The rest can be moved without it: a connection ends at both ends."""
    REPLACED = "replaced"
    """The copy has another, which does for it."""


@dataclass(frozen=True)
class Unkept:
    """A socket that would not move as it is."""

    ino: int
    problem: Problem
    fate: Fate
    port: int = 0
    """Of one that listens and is replaced."""


def look(kernel: Kernel, files: Iterable[procfd.OpenFile], *, replaces: bool = True) -> Iterator[Unkept]:
    """What stands in the way, socket by socket. `replaces`: CRIU can be kept from seeing some, in place of which the
    copy has others."""
    sockets = {int(file.target[8:-1]): file for file in files if file.target.startswith("socket:[")}
    signing: set[int] = _asked(sockdiag.signing, set)
    partners: dict[int, int] = _asked(sockdiag.partners, dict)
    known = _Partners(sockets)
    for ino, file in sockets.items():
        with suppress(OSError), _duplicate(kernel, file) as sock:  # gone meanwhile
            if kernel.has_program(sock):
                yield Unkept(ino, _filtered(file), Fate.BARRED)
            if sock.family == socket.AF_UNIX:
                if (partner := partners.get(ino)) and known.is_outside(partner):
                    yield Unkept(ino, _outside(file, sock), Fate.BARRED)
            elif is_multipath(sock):
                yield _of_multipath(ino, sock, replaces)
            else:
                yield from (Unkept(ino, found, fate) for found, fate in _of(file, sock, ino in signing))


class _Partners:
    """Whose the other ends of a workload's unix sockets are, by their inodes."""

    def __init__(self, sockets: Mapping[int, procfd.OpenFile]) -> None:
        self._sockets = sockets

    def is_outside(self, ino: int) -> bool:
        """A socket that nobody has open, where the workload's have descriptors queued, is one of those: on its way from
        the workload to itself (SCM_RIGHTS, unix(7))."""
        if ino in self._sockets:
            return False
        return ino in self._of_others or not self._some_are_queued

    @cached_property
    def _some_are_queued(self) -> bool:
        lines = (line for file in self._sockets.values() for line in procfd.descriptor_lines(file.pid, file.fd))
        return any(line.startswith("scm_fds:") and line != "scm_fds: 0" for line in lines)

    @cached_property
    def _of_others(self) -> set[int]:
        tree = {file.pid for file in self._sockets.values()}
        return {ino for pid in procfs.pids() if pid not in tree for _, ino in sockets_of(pid)}


def shared_ports(lines: Iterable[procnet.SocketLine]) -> Iterator[Problem]:
    """Ports that several of a workload's UDP `lines` have (SO_REUSEPORT): whom of them the kernel hands a datagram to
    goes by who has sent it and by their order, and neither is the same at another address or in a copy."""
    counts = Counter(line.local for line in lines if not line.peer[1])
    for (host, port), count in sorted(counts.items()):
        if count > 1:
            message = (
                f"{count} UDP sockets share {_end(host, port)}: a peer of one may be heard by another after the move"
            )
            yield problem(Code.NOT_CARRIED, message, hint="Where each has peers of its own, let the workload have one.")


def given_up(kernel: Kernel, tree: Tree) -> dict[int, str]:
    """Why each socket of a stopped tree that the rest can be moved without cannot be kept, by inode."""
    files = (file for member in tree.members for file in procfd.open_files(member.pid))
    return {one.ino: one.problem.message for one in look(kernel, files) if one.fate is Fate.RESET}


def _asked(question: Callable[[], T], without: Callable[[], T]) -> T:
    try:
        return question()
    except OSError:  # a kernel without sock_diag
        return without()


def _duplicate(kernel: Kernel, file: procfd.OpenFile) -> socket.socket:
    """Of any family: of some the kernel does not say the name, which Python would ask for."""
    pidfd = kernel.pidfd_open(file.pid)
    try:
        mine = kernel.pidfd_getfd(pidfd, file.fd)
    finally:
        os.close(pidfd)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=mine) as some:
        family, kind, protocol = (some.getsockopt(socket.SOL_SOCKET, one) for one in _KIND)
        return socket.socket(family, kind, protocol, fileno=some.detach())


def _outside(file: procfd.OpenFile, sock: socket.socket) -> Problem:
    """Of a unix socket whose other end is somebody else's: the system's log, a database beside it."""
    names = [name if isinstance(name, str) else f"@{name[1:].decode(errors='replace')}"
             for name in (sock.getpeername(), sock.getsockname()) if name]  # fmt: skip
    way = f"connected by {names[0]}" if names else "connected"
    message = f"a unix socket of process {file.pid} (fd {file.fd}) is {way} to a process outside the workload"
    return problem(Code.UNSUPPORTED_SOCKET, message, hint="Let the workload close it, or move both as one workload.")


def _filtered(file: procfd.OpenFile) -> Problem:
    message = f"a socket of process {file.pid} (fd {file.fd}) has an eBPF program as its filter, which cannot be saved"
    return problem(Code.UNSUPPORTED_SOCKET, message, hint="Let the workload take a classic one (SO_ATTACH_FILTER).")


def _of_multipath(ino: int, sock: socket.socket, replaces: bool) -> Unkept:
    name, plain = _name(sock), "Let the workload use plain TCP (GODEBUG=multipathtcp=0)"
    if not replaces:
        message = f"{name} is Multipath TCP, which cannot be saved of a workload with filters of its system calls"
        return Unkept(ino, problem(Code.UNSUPPORTED_SOCKET, message, hint=f"{plain}."), Fate.BARRED)
    if peer(sock):
        message = f"{name} is Multipath TCP, which cannot be saved: it would be reset"
        return Unkept(ino, problem(Code.UNSUPPORTED_SOCKET, message, hint=f"{plain}, or {ALLOW}"), Fate.RESET)
    message = f"{name} is for Multipath TCP: after the move for plain TCP alone, which whoever connects makes do with"
    return Unkept(ino, problem(Code.NOT_CARRIED, message, hint="Nothing needs to be done."), Fate.REPLACED, _port(sock))


def _port(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port if multipath.listens(sock) else 0


def _of(file: procfd.OpenFile, sock: socket.socket, signs: bool) -> Iterator[tuple[Problem, Fate]]:
    """Each problem, and what becomes of the socket."""
    if sock.family not in _SAVED:
        message = f"a socket of process {file.pid} (fd {file.fd}) is of family {sock.family}, which cannot be saved"
        yield problem(Code.UNSUPPORTED_SOCKET, message), Fate.BARRED
    if sock.family == socket.AF_NETLINK:
        yield from ((found, Fate.BARRED) for found in _of_netlink(file, sock))
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if sock.proto == socket.IPPROTO_UDP and sock.getsockopt(socket.IPPROTO_UDP, _UDP_CORK):
        message = f"the UDP socket of process {file.pid} (fd {file.fd}) is corked (UDP_CORK), which cannot be saved"
        yield problem(Code.UNSUPPORTED_SOCKET, message, hint="It moves once the workload has uncorked it."), Fate.BARRED
    elif sock.proto == socket.IPPROTO_TCP:
        for code, message, hint in _of_tcp(sock, signs):
            yield problem(code, message, hint=f"{hint}, or {ALLOW}"), Fate.RESET


def _of_netlink(file: procfd.OpenFile, sock: socket.socket) -> Iterator[Problem]:
    """What CRIU stumbles over (criu: sk-netlink.c, dump_one_netlink_fd)."""
    name = f"a netlink socket of process {file.pid} (fd {file.fd})"
    number, _ = sock.getsockname()
    if not number and any(sock.getsockopt(_SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS, _GROUPS_BYTES)):
        message = f"{name} is a member of groups and bound to no number, which cannot be saved"
        yield problem(Code.UNSUPPORTED_SOCKET, message, hint="Let the workload bind(2) it first.")
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if poll.poll(0):
        yield problem(Code.CONNECTION_STATE, f"{name} has something for the process that it has not read yet")


def _of_tcp(sock: socket.socket, signs: bool) -> Iterator[tuple[Code, str, str]]:
    if profile.upper_protocol(sock) == b"tls":
        message = f"{_name(sock)} has kernel TLS, whose keys cannot be saved: it would be reset"
        yield Code.UNSUPPORTED_SOCKET, message, "Let the workload do TLS itself (nginx: ssl_conf_command)"
    signature = "TCP-MD5" if signs else "TCP-AO" if _has_ao(sock) else ""
    if signature:
        fate = "it would be reset" if peer(sock) else "it would take unsigned connections"
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
    other = peer(sock)
    local = _end(*sock.getsockname()[:2])
    return f"the connection {local} to {other}" if other else f"the socket {local}"


def peer(sock: socket.SocketType) -> str:
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
