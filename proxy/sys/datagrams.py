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
MARK = 0x6D74
"""Of what a speaker says: who hears it in this pod can tell it from what the peer itself says. No rule routes by it."""
MARK_SPACE = socket.CMSG_SPACE(_MARK.size)
"""What recvmsg() needs beside a datagram to say its mark."""


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


def tell_marks(kernel: Kernel, sock: socket.socket) -> None:
    """Let recvmsg() say of each datagram who said it, also of those that wait already. (Since Linux 5.19.)"""
    kernel.set_int(sock, socket.SOL_SOCKET, options.SO_RCVMARK, 1)


def is_speakers(control: Sequence[tuple[int, int, bytes]]) -> bool:
    """Whether a speaker has said the datagram that recvmsg() gave with this."""
    return (socket.SOL_SOCKET, socket.SO_MARK, _MARK.pack(MARK)) in control


def dropped(kernel: Kernel, sock: socket.socket) -> int:
    """Datagrams that found the socket's receive buffer full, since it was made (SO_MEMINFO)."""
    memory = _MEMINFO.unpack(kernel.get_bytes(sock, socket.SOL_SOCKET, options.SO_MEMINFO, _MEMINFO.size))
    return int(memory[options.MEMINFO_DROPS])


def share(kernel: Kernel, sock: socket.socket, shared: bool) -> None:
    """Let the workload's restored socket have the same address, beside this one; or not."""
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        kernel.set_int(sock, socket.SOL_SOCKET, option, int(shared))
