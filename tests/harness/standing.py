"""Processes of a test's own that stand still for a moment, as the agent has them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from checkpoint.processes.tree import is_stopped


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """It goes on then."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid))
    yield
    with suppress(ProcessLookupError):  # it was killed
        os.kill(pid, signal.SIGCONT)


def until(what: Callable[[], object]) -> None:
    """Wait for what nobody tells of; fail after half a minute."""
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.0001)
