"""Givers and takers of memory, and the copies of a workload: found among the machine's processes, and ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.harness.moving import until
from tests.harness.sidecars import AGENT, running


def helpers(pod, module: str) -> list[int]:
    """The giver or the taker of a pod, as the host numbers it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            argv = (path / "cmdline").read_bytes().split(b"\0")
            same = (path / "ns/pid").stat().st_ino == Path(f"/proc/{pod.pid1}/ns/pid").stat().st_ino
        except OSError:
            continue
        if same and f"checkpoint.memory.{module}".encode() in argv:
            found.append(int(path.name))
    return found


def copies(*pods, program: str = "redis-server") -> list[str]:
    """The state of each process of the program in these pods, dead ones left out."""
    found = []
    for pod in pods:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                status = (path / "status").read_text()
                same = (path / "ns/pid").stat().st_ino == Path(f"/proc/{pod.pid1}/ns/pid").stat().st_ino
            except OSError:
                continue
            if same and status.startswith(f"Name:\t{program}"):
                state = status.split("State:\t")[1][0]
                found += [f"{pod.name}:{state}"] if state not in "ZX" else []
    return found


async def end(pod, module: str) -> None:
    """Its agent, giver or taker."""
    (victim,) = [running(pod, AGENT)] if module == AGENT else helpers(pod, module)
    os.kill(victim, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{victim}").exists(), "it does not end")
