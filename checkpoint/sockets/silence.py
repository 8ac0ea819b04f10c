"""How the connections of a copy that never ran end: without a word.

Else each would say FIN when its process is killed. Nobody answers that, so the kernel would say it again for minutes,
and keep its two ends from the next try (K: inet_hashtables.c, __inet_check_established).
"""

from __future__ import annotations

import socket
from contextlib import suppress

from checkpoint.kernel import Kernel
from checkpoint.processes.tree import Tree
from checkpoint.sockets.duplicates import is_tcp, sockets_of


def silence(kernel: Kernel, tree: Tree) -> None:
    """Put every TCP connection of a stopped tree into repair mode: closed, it is gone."""
    for member in tree.members:
        for fd, _ in sockets_of(member.pid):
            # Not where the process is gone, or it is no connection.
            with suppress(OSError), socket.socket(fileno=kernel.pidfd_getfd(member.pidfd, fd)) as sock:
                if is_tcp(sock):
                    kernel.enter_repair(sock)
