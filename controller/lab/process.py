"""A process told apart from a later one that was given the same PID."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

import msgspec


class Process(msgspec.Struct, frozen=True):
    """A process of the host's PID namespace."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat: clock ticks since the boot (proc(5)). Never the same for two uses of one PID."""

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has `pid` now. Raises ProcessLookupError."""
        return cls(pid, int(_stat_fields(pid)[19]))

    @property
    def alive(self) -> bool:
        """Whether it is still there and not a zombie."""
        if not self.pid:
            return False
        try:
            fields = _stat_fields(self.pid)
        except ProcessLookupError:
            return False
        return int(fields[19]) == self.start_ticks and fields[0] not in ("Z", "X")

    def end(self, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL after the grace; returns when it has ended, at once when it had already."""
        try:
            pidfd = os.pidfd_open(self.pid) if self.alive else -1
        except ProcessLookupError:
            pidfd = -1
        if pidfd == -1:
            return
        try:
            if self.alive:  # again: the PID may have changed hands before the descriptor was there
                _signal_until_ended(pidfd, grace_seconds)
        finally:
            os.close(pidfd)
        with contextlib.suppress(ChildProcessError):  # ours only if we are a subreaper: then don't leave a zombie
            os.waitpid(self.pid, os.WNOHANG)


def _signal_until_ended(pidfd: int, grace_seconds: float) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not poll.poll(grace_seconds * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.poll()


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on: the second may contain spaces and brackets itself."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(pid) from error
    return text.rpartition(")")[2].split()
