"""A socket's error queue: what the kernel says beside the stream, where the workload has asked for it.

ICMP errors (IP_RECVERR), time stamps of what was sent (SO_TIMESTAMPING), buffers that are free again (MSG_ZEROCOPY).
The workload had asked for them before its socket was adopted. As long as one waits, epoll(7) has an error.
"""

from __future__ import annotations

import socket
from contextlib import suppress

_INET = (socket.AF_INET, socket.AF_INET6)


def emptied(sock: object) -> bool:
    """Empty it; False when nothing was in it, or it is no socket of the internet's."""
    found = False
    if isinstance(sock, socket.socket) and sock.family in _INET:
        with suppress(OSError):
            while True:
                sock.recvmsg(0, 0, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
                found = True
    return found
