"""A workload with more connections than its proxies have descriptors for links moves on, and home."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.lab.pod import PROXY_UID, Pod
from proxy.io.lending import KEPT
from tests.harness import sidecars
from tests.harness.chained import move_all, one_link_each
from tests.harness.moving import ONE_LOOP, REDIS_PORT

pytestmark = ONE_LOOP

FLOWS = 200
OTHERS = 240
"""What else a proxy has descriptors for than legs: what is kept for newcomers, and some hundred links."""


async def test_more_flows_than_links_follow_from_pod_to_pod_and_home(stage):
    await stage.run_redis()
    clients = [stage.connect(stage.client, stage.a.address, REDIS_PORT) for _ in range(FLOWS)]
    with limited(FLOWS, stage.a, stage.b):
        await move_all(stage, "redis", stage.a, stage.b)
        count(clients, 1)
        # From where it moves on a proxy has two sockets of each connection: its leg, and what was the other end.
        with limited(FLOWS, stage.c), limited(2 * FLOWS, stage.b):
            await move_all(stage, "redis", stage.b, stage.c)
            count(clients, 2)
            assert await one_link_each(stage) == FLOWS
            assert await asleep(stage, stage.a) >= FLOWS - (OTHERS - KEPT)
    with limited(2 * FLOWS, stage.a, stage.c):
        await move_all(stage, "redis", stage.c, stage.a)
        count(clients, 3)
        assert await one_link_each(stage) == FLOWS


def count(clients, number):
    """All of them at once; each is told how often it has asked."""
    for each, client in enumerate(clients):
        client.sendall(f"INCR of-{each}\r\n".encode())
    for client in clients:
        assert client.recv(64) == f":{number}\r\n".encode()


async def asleep(stage, pod):
    return [view.link for view in await stage.flows(pod)].count("asleep")


@contextmanager
def limited(legs: int, *pods: Pod) -> Iterator[None]:
    """Their proxies have so few descriptors meanwhile."""
    pids = [sidecars.running(pod, sidecars.PROXY) for pod in pods]
    before = [soft_limit(pid) for pid in pids]
    for pid in pids:
        limit(pid, legs + OTHERS)
    try:
        yield
    finally:
        for pid, descriptors in zip(pids, before, strict=True):
            limit(pid, descriptors)


def soft_limit(pid: int) -> int:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(int(line.split()[3]) for line in lines if line.startswith("Max open files"))


def limit(pid: int, descriptors: int) -> None:
    """The proxy's own user may (prlimit(2)); root may not everywhere."""
    argv = ("prlimit", f"--pid={pid}", f"--nofile={descriptors}:")
    subprocess.run(argv, user=PROXY_UID, group=PROXY_UID, extra_groups=[], check=True)
