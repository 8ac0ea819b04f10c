"""Waiting until a pod's sidecars serve."""

from __future__ import annotations

import asyncio
from pathlib import Path

from controller.lab.errors import PodGone, PodNotReady
from controller.lab.pod import Pod

READY_SECONDS = 30.0
"""Two Python processes start in under a second; a dozen pods at once, on two busy cores, in ten."""

TAIL_BYTES = 1000
"""Of a log: more than its last line has, as a rule."""

RETRY_SECONDS = 0.01
"""A sidecar's socket appears by a rename of which nobody tells us; asking costs 0.1 ms."""


async def wait_ready(pod: Pod, seconds: float = READY_SECONDS) -> None:
    """Returns when both sidecars answer GET /healthz with 200. Raises PodNotReady and PodGone."""
    try:
        async with asyncio.timeout(seconds):
            for path in (pod.agent_socket, pod.proxy_socket):
                await _until_healthy(pod, path)
    except TimeoutError as error:
        raise PodNotReady(f"pod {pod.name}'s sidecars were not ready after {seconds:g} s{log_tails(pod)}") from error


async def _until_healthy(pod: Pod, path: Path) -> None:
    while not await healthy(path):
        if not pod.alive:
            raise PodGone(f"pod {pod.name}'s first process died before its sidecars were ready{log_tails(pod)}")
        await asyncio.sleep(RETRY_SECONDS)


async def healthy(path: Path) -> bool:
    """Whether a sidecar serves at the socket: one GET /healthz, answered with 200."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


def log_tails(pod: Pod) -> str:
    """The last line of what each sidecar wrote, to be put behind a sentence; "" when they wrote nothing.

    The logs go with the pod, which is not kept where it was not ready.
    """
    tails = [f"{name}.log: {line}" for name in ("init", "proxy", "agent") if (line := _tail(pod.log(name)))]
    return ": " + "; ".join(tails) if tails else ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""
