"""CRIU alone, as a person uses it by hand: the floor under every freeze.

The same Redis in the same pods under the same load: `criu dump` in pod a and `criu restore` in pod b, the two commands
one after the other. The images are not edited, so pod b is lent pod a's address (on `lo`, and without answering ARP for
it): to CRIU it is the same work. The restored copy is ended at once; what its connections go through meanwhile does not
matter.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from controller.lab.namespaces import in_network
from controller.lab.pod import Pod
from controller.lab.programs import criu
from tests.bench.figures import Bare
from tests.bench.stage import Stage, kill_redis, loaded, redis_pid

SETTLE_SECONDS = 0.5
"""How long the load runs before the dump: its queues are as full then as at any time."""

OPTIONS = ("--tcp-established", "--network-lock", "skip", "--file-locks", "--ext-unix-sk", "--manage-cgroups=ignore",
           "--ghost-limit", "64M", "-v2")  # fmt: skip
"""What Midstream's own request to CRIU says too."""


async def dump_and_restore(scene: Stage, section: str, connections: int) -> Bare:
    """Leaves no Redis behind: the next run starts its own."""
    async with loaded(scene, connections):
        await asyncio.sleep(SETTLE_SECONDS)
        pid = await redis_pid(scene.a)
        try:
            return await asyncio.to_thread(_by_hand, scene, pid, section, connections)
        finally:
            await kill_redis(scene.a)


def _by_hand(scene: Stage, pid: int, section: str, connections: int) -> Bare:
    images = Path(scene.a.images) / "bare"
    images.mkdir(mode=0o700)
    common = ("-D", str(images), *OPTIONS)
    with _address_lent(scene.a, scene.b), _ended_after(scene.b, pid):
        began = time.monotonic()
        _run(scene.a, "dump", "-t", str(pid), "--leave-stopped", "--skip-in-flight", "-o", "dump.log", *common)
        dumped = time.monotonic()
        _run(scene.b, "restore", "--restore-detached", "-o", "restore.log", *common)
        restored = time.monotonic()
    _check(images, connections)
    return Bare(
        section,
        connections,
        dumped - began,
        restored - dumped,
        _statistics(images, "dump"),
        _statistics(images, "restore"),
    )


def floor_of_memory(scene: Stage, pid: int) -> float:
    """Dump and restore of an idle process, one after the other, in seconds."""
    images = Path(scene.a.images) / "bare"
    images.mkdir(mode=0o700)
    common = ("-D", str(images), *OPTIONS)
    with _ended_after(scene.b, pid):
        began = time.monotonic()
        _run(scene.a, "dump", "-t", str(pid), "--leave-stopped", "--skip-in-flight", "-o", "dump.log", *common)
        _run(scene.b, "restore", "--restore-detached", "-o", "restore.log", *common)
        return time.monotonic() - began


def start_seconds(pod: Pod) -> float:
    """How long a CRIU takes that is started in the same way and has nothing to do."""
    began = time.monotonic()
    _run(pod, "--version")
    return time.monotonic() - began


def _run(pod: Pod, *arguments: str) -> None:
    """Raises RuntimeError with CRIU's own words."""
    enter = ("nsenter", f"--target={pod.pid1}", "--net", "--pid", "--mount", "--ipc", "--uts", "--")
    done = subprocess.run((*enter, str(criu()), *arguments), stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"criu {arguments[0]} ended with {done.returncode}: {done.stderr.decode()[-300:].strip()}")


@contextmanager
def _address_lent(source: Pod, destination: Pod) -> Iterator[None]:
    """The source's address is the destination's too, and nobody hears of it."""
    in_network(destination, lambda: _change_address("add", source.address))
    try:
        yield
    finally:
        in_network(destination, lambda: _change_address("del", source.address))


def _change_address(verb: str, address: str) -> None:
    for name, value in (("arp_ignore", "1"), ("arp_announce", "2")):
        Path(f"/proc/sys/net/ipv4/conf/all/{name}").write_text(value if verb == "add" else "0")
    with IPRoute() as ip:
        ip.addr(verb, index=ip.link_lookup(ifname="lo")[0], address=address, prefixlen=32)


@contextmanager
def _ended_after(pod: Pod, number: int) -> Iterator[None]:
    """Ends what was restored: the child of the pod's first process that the pod numbers `number`, if it is there."""
    try:
        yield
    finally:
        children = Path(f"/proc/{pod.pid1}/task/{pod.pid1}/children").read_text().split()
        for pid in map(int, children):
            if _number_inside(pid) == number:
                _kill(pid)


def _check(images: Path, connections: int) -> None:
    """A floor is one only if it did the same work. Raises RuntimeError."""
    streams = len(list(images.glob("tcp-stream-*.img")))
    if streams < connections:
        raise RuntimeError(f"CRIU alone dumped {streams} connections of {connections}")


def _kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while _number_inside(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.002)  # until the pod's PID 1 has reaped it: only then is the number free again
    finally:
        os.close(pidfd)


def _number_inside(pid: int) -> int | None:
    """The PID that a process has in its innermost namespace; None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:"))


def _statistics(images: Path, kind: str) -> dict[str, float]:
    """CRIU's own account in seconds, by the names of its fields without `_time`."""
    pycriu = _pycriu()
    with (images / f"stats-{kind}").open("rb") as file:
        entry = pycriu.images.load(file)["entries"][0][kind]
    return {name.removesuffix("_time"): value / 1e6 for name, value in entry.items() if name.endswith("_time")}


def _pycriu() -> Any:
    modules = str(criu().parent / "python")
    if modules not in sys.path:
        sys.path.append(modules)
    import pycriu  # beside the CRIU that was found, not on the path

    return pycriu
