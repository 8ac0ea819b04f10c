"""Doing something in a pod's network namespace from outside the pod: load clients, tests, the lab itself."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

from controller.lab.errors import PodGone
from controller.lab.pod import Pod

CLONE_NEWNET = 1 << 30  # linux/sched.h; in `os` from Python 3.12 on

Result = TypeVar("Result")


def in_network(pod: Pod, call: Callable[[], Result]) -> Result:
    """Runs `call` in the pod's network namespace and gives its result. Blocks; raises PodGone.

    It runs in a thread of its own, for setns(2) moves one thread: sockets that it opens and processes that it starts
    belong to that namespace for life, and the calling thread never leaves its own.
    """
    descriptor = _open_network(pod)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix=f"in-{pod.name}") as thread:
            return thread.submit(_entered, descriptor, call).result()
    finally:
        os.close(descriptor)


def spawn_in(
    pod: Pod,
    argv: Sequence[str],
    *,
    stdout: int | IO[bytes] | None = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts a program that has the pod's network and all else of the host's. The caller owns it and must wait for it.

    Raises PodGone, and OSError when the program cannot be started.
    """

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment, pass_fds=pass_fds
        )

    return in_network(pod, start)


def _open_network(pod: Pod) -> int:
    try:
        descriptor = os.open(Path(f"/proc/{pod.pid1}/ns/net"), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        descriptor = -1
    if not pod.process.alive:  # after the opening: what we hold is then surely this pod's, not a later process's
        if descriptor != -1:
            os.close(descriptor)
        raise PodGone(f"pod {pod.name}'s first process is gone")
    return descriptor


def _entered(descriptor: int, call: Callable[[], Result]) -> Result:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    return call()
