"""App legs that are begun before anybody knows whose they will be: a freeze is no time to make sockets in."""

from __future__ import annotations

import contextlib
import socket
from collections import defaultdict

from proxy.core.errors import ProxyError
from proxy.sys import repair
from proxy.sys.kernel import Kernel


class Blanks:
    """One migration's, by address family."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._ready: defaultdict[int, list[socket.socket]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._ready.values()))

    def prepare(self, family: int) -> None:
        """Have one more; where that is refused, `take` will say why."""
        with contextlib.suppress(ProxyError):
            self._ready[family].append(repair.blank(self._kernel, family))

    def take(self, family: int) -> socket.socket:
        """One, made now if there is none. Raises LEG_NOT_BUILT."""
        ready = self._ready[family]
        return ready.pop() if ready else repair.blank(self._kernel, family)

    def close(self) -> None:
        for ready in self._ready.values():
            for sock in ready:
                sock.close()
        self._ready.clear()
