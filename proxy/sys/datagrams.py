"""UDP sockets: one that speaks for a peer, what it has said, and what the kernel dropped of one that was adopted."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from proxy.api import Endpoint
from proxy.sys import address, options
from proxy.sys.kernel import Kernel

_MEMINFO = struct.Struct(f"={options.MEMINFO_WORDS}I")
_MARK = struct.Struct("=I")
_GRO = (socket.IPPROTO_UDP, options.UDP_GRO)
MARK = 0x6D74
"""Of what a speaker says: who hears it in this pod can tell it from what the peer itself says. No rule routes by it."""
CATCHER_PORT = 15008
"""Of UDP, on lo: as the links' of TCP."""
_SEGMENT = struct.Struct("=i")
CONTROL_SPACE = 1024
"""Ample for what recvmsg() says beside a datagram: its mark, its segments, and whatever the workload has asked for."""


def speaker(kernel: Kernel, peer: Endpoint, app: Endpoint) -> socket.socket:
    """A socket with the peer's own address, connected to the workload's. Raises OSError.

    Another workload's socket may hear from the same peer: SO_REUSEADDR, and the kernel prefers the connected one.
    """
    sock = kernel.udp_socket(address.family(peer.host))
    try:
        six = sock.family == socket.AF_INET6
        level, option = (
            (socket.IPPROTO_IPV6, options.IPV6_TRANSPARENT) if six else (socket.IPPROTO_IP, options.IP_TRANSPARENT)
        )
        kernel.set_int(sock, level, option, 1)
        kernel.set_int(sock, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kernel.set_int(sock, socket.SOL_SOCKET, socket.SO_MARK, MARK)
        kernel.bind(sock, (peer.host, peer.port))
        kernel.connect(sock, (app.host, app.port))
    except OSError:
        sock.close()
        raise
    return sock


def catcher(kernel: Kernel, family: int) -> socket.socket:
    """A socket for what the nft table sends to it, whoever it was meant for. Raises OSError."""
    sock = kernel.udp_socket(family)
    four = family == socket.AF_INET
    level = socket.IPPROTO_IP if four else socket.IPPROTO_IPV6
    try:
        kernel.set_int(sock, level, options.IP_TRANSPARENT if four else options.IPV6_TRANSPARENT, 1)
        kernel.set_int(sock, level, options.IP_RECVORIGDSTADDR if four else options.IPV6_RECVORIGDSTADDR, 1)
        kernel.set_int(sock, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kernel.bind(sock, ("127.0.0.1" if four else "::1", CATCHER_PORT))
    except OSError:
        sock.close()
        raise
    return sock


def destination(control: Sequence[tuple[int, int, bytes]]) -> Endpoint | None:
    """Who the datagram that a catcher's recvmsg() gave with this was meant for."""
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, options.IP_RECVORIGDSTADDR):
            return Endpoint(socket.inet_ntop(socket.AF_INET, value[4:8]), int.from_bytes(value[2:4], "big"))
        if (level, kind) == (socket.IPPROTO_IPV6, options.IPV6_RECVORIGDSTADDR):
            return Endpoint(socket.inet_ntop(socket.AF_INET6, value[8:24]), int.from_bytes(value[2:4], "big"))
    return None


def tell_marks(kernel: Kernel, sock: socket.socket) -> None:
    """Let recvmsg() say of each datagram who said it, also of those that wait already. (Since Linux 5.19.)"""
    kernel.set_int(sock, socket.SOL_SOCKET, options.SO_RCVMARK, 1)


def is_speakers(control: Sequence[tuple[int, int, bytes]]) -> bool:
    """Whether a speaker has said the datagram that recvmsg() gave with this."""
    return (socket.SOL_SOCKET, socket.SO_MARK, _MARK.pack(MARK)) in control


def segments(payload: bytes, control: Sequence[tuple[int, int, bytes]]) -> list[bytes]:
    """The datagrams that recvmsg() has given as one, with this: where the workload has set UDP_GRO (udp(7))."""
    sizes = [_SEGMENT.unpack(value)[0] for level, kind, value in control if (level, kind) == _GRO]
    if not sizes or not payload:
        return [payload]
    return [payload[at : at + sizes[0]] for at in range(0, len(payload), sizes[0])]


def dropped(kernel: Kernel, sock: socket.socket) -> int:
    """Datagrams that found the socket's receive buffer full, since it was made (SO_MEMINFO)."""
    memory = _MEMINFO.unpack(kernel.get_bytes(sock, socket.SOL_SOCKET, options.SO_MEMINFO, _MEMINFO.size))
    return int(memory[options.MEMINFO_DROPS])


def share(kernel: Kernel, sock: socket.socket, shared: bool) -> None:
    """Let the workload's restored socket have the same address, beside this one; or not."""
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        kernel.set_int(sock, socket.SOL_SOCKET, option, int(shared))
