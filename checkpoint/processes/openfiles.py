"""What every descriptor of a process leads to, asked of the kernel at once (`checkpoint.core.openfiles`): 1 us each,
where to duplicate them and to ask one after the other takes 50.

Needs a kernel that says what it is made of (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF) and tells of one process
alone (Linux 6.1), and CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. Who cannot ask so has to look at them one by one.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
from pathlib import Path

from checkpoint.core.btf import Types
from checkpoint.core.openfiles import Asking, OpenFile
from checkpoint.kernel import Kernel

_LOG = logging.getLogger(__name__)
BTF = Path("/sys/kernel/btf/vmlinux")
_READ_BYTES = 1 << 16


class OpenFiles:
    """Of whichever processes. `learn` first; `close` in the end."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._asking: Asking | None = None
        self._program = -1
        self._is_learnt = False
        self._epolls = 0
        """The operations of an epoll."""

    def learn(self) -> None:
        """Find out whether this kernel can be asked so. Blocks: 0.2 s, once."""
        if self._is_learnt:
            return
        self._is_learnt = True
        try:
            if sys.byteorder != "little":
                raise LookupError("this machine is big-endian")
            self._asking = Asking(Types(BTF.read_bytes()))
            self._program = self._kernel.load_iterator(self._asking.program, self._asking.function)
            self._try()
        except (OSError, LookupError, ValueError) as error:
            self.close()
            _LOG.info("open files are looked at one by one: %s", error)

    @property
    def can_be_asked(self) -> bool:
        return self._asking is not None

    def of(self, pidfd: int) -> list[OpenFile]:
        """A process's, in the order of their numbers. Raises OSError; ValueError for what makes no sense."""
        assert self._asking is not None
        said = self._kernel.iterate(self._program, pidfd)
        try:
            raw = bytearray()
            while some := os.read(said, _READ_BYTES):
                raw += some
        finally:
            os.close(said)
        return self._asking.decode(raw)

    def is_epoll(self, one: OpenFile) -> bool:
        return one.operations == self._epolls

    def close(self) -> None:
        self._asking = None
        if self._program >= 0:
            os.close(self._program)
            self._program = -1

    def _try(self) -> None:
        """On ourselves. Raises LookupError for what is not so."""
        ours = self._kernel.pidfd_open(os.getpid())
        try:
            with select.epoll() as epoll, socket.socket() as sock:
                found = {one.number: one for one in self.of(ours)}
                self._epolls = found[epoll.fileno()].operations
                seen = found[sock.fileno()]
                said = seen.ino, seen.family, seen.type, seen.protocol, seen.closed_on_exec
                if said != (os.fstat(sock.fileno()).st_ino, sock.family, sock.type, socket.IPPROTO_TCP, 1):
                    raise LookupError("the kernel says of our own what is not so")
        finally:
            os.close(ours)
