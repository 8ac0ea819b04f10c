"""What the hold changes on adopted sockets, and how it is undone: receive buffers and listeners' backlogs; and how many
descriptors there are."""

from __future__ import annotations

import errno
import resource
import socket
import struct

from proxy.core import hold
from proxy.sys import options
from proxy.sys.kernel import Kernel
from proxy.sys.options import SOL_TCP

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""How a call fails that wants a descriptor and its memory where there is none for now."""

_MOST = 2**31 - 1
_WORD = struct.Struct("=I")
_MEMINFO = struct.Struct(f"={options.MEMINFO_WORDS}I")


class Buffer:
    """One socket's receive buffer, as it was before the hold.

    Setting a size locks it (SOCK_RCVBUF_LOCK), which ends autotuning: SO_BUF_LOCK gives the old lock back afterwards.
    """

    __slots__ = ("_lock", "_size")

    def __init__(self) -> None:
        self._size: int | None = None
        self._lock = 0

    def limit(self, kernel: Kernel, sock: socket.socket, offered: int, share_bytes: int) -> None:
        """Let the peer add so much from now on. A later call with less tightens the limit."""
        memory = _MEMINFO.unpack(kernel.get_bytes(sock, socket.SOL_SOCKET, options.SO_MEMINFO, _MEMINFO.size))
        buffer = memory[options.MEMINFO_RCVBUF] if self._size is None else self._size
        clamp = kernel.get_int(sock, SOL_TCP, options.TCP_WINDOW_CLAMP)
        size = hold.receive_buffer(memory[options.MEMINFO_RMEM_ALLOC], buffer, clamp, offered, share_bytes)
        if size is None:
            return
        if self._size is None:
            self._lock = kernel.get_int(sock, socket.SOL_SOCKET, options.SO_BUF_LOCK)
            self._size = buffer
        kernel.set_int(sock, socket.SOL_SOCKET, options.SO_RCVBUFFORCE, size // 2)  # the kernel doubles it

    def restore(self, kernel: Kernel, sock: socket.socket) -> None:
        if self._size is None:
            return
        kernel.set_int(sock, socket.SOL_SOCKET, options.SO_RCVBUFFORCE, self._size // 2)
        kernel.set_int(sock, socket.SOL_SOCKET, options.SO_BUF_LOCK, self._lock)
        self._size = None


def raise_backlog(kernel: Kernel, listener: socket.socket) -> int:
    """Let the listener's accept queue grow to net.core.somaxconn while nobody accepts; gives the backlog it had.

    listen() on a listening socket only sets the backlog (K: __inet_listen_sk), and caps it at somaxconn by itself.
    """
    info = kernel.get_bytes(listener, SOL_TCP, options.TCP_INFO, options.INFO_BYTES)
    before: int = _WORD.unpack_from(info, options.INFO_SACKED)[0]
    kernel.listen(listener, _MOST)
    return before


def waiting(kernel: Kernel, listener: socket.socket) -> int:
    """How many connections nobody has accepted yet."""
    info = kernel.get_bytes(listener, SOL_TCP, options.TCP_INFO, options.INFO_BYTES)
    count: int = _WORD.unpack_from(info, options.INFO_UNACKED)[0]
    return count


def restore_backlog(kernel: Kernel, listener: socket.socket, backlog: int) -> None:
    kernel.listen(listener, backlog)


def spare_descriptors(kernel: Kernel) -> int:
    """How many more this process may open (RLIMIT_NOFILE, getrlimit(2)).

    How many are open is the folder's size since Linux 6.2 (K: proc_fd_getattr); before that it is 0.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, most - (kernel.size_of("/proc/self/fd") or len(kernel.names_in("/proc/self/fd"))))
