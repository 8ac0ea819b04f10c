"""The processes of a pod's sidecars, found where they are: below its first process."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROXY, AGENT = "proxy.main", "checkpoint.main"


def sidecar(pod, module: str) -> int | None:
    """The process id of the sidecar that runs `module`; None while there is none: PID 1 may be about to start the next.

    A child that ends is reaped between the list and the look at it: then it has no command line any more.
    """
    for child in Path(f"/proc/{pod.pid1}/task/{pod.pid1}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if module in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
                return int(child)
    return None


def running(pod, module: str) -> int:
    """The same where it has to be there.

    Raises:
        AssertionError: it is not.
    """
    pid = sidecar(pod, module)
    assert pid is not None, f"no {module} in pod {pod.name}"
    return pid
