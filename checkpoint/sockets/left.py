"""The listeners that are left of a workload that has moved away: the proxy's, and so ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from socket import SocketType

_LOG = logging.getLogger(__name__)


class LeftListeners:
    """Ours from the adoption to the commit, which alone makes them so: before it the workload may still go on here."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def keep(self, socks: Iterable[SocketType]) -> None:
        """A further duplicate of each."""
        self._descriptors += [os.dup(sock.fileno()) for sock in socks]

    def own(self) -> None:
        """A listener of that port may be made here again by CRIU, as us: beside one of the same user alone (K:
        inet_csk_get_port)."""
        for one in self._descriptors:
            try:
                os.fchown(one, os.geteuid(), os.getegid())
            except OSError as error:
                _LOG.warning("a workload may not come home to its port: chown of a socket: %s", error)
        self.close()

    def close(self) -> None:
        for one in self._descriptors:
            os.close(one)
        self._descriptors.clear()
