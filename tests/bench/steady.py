"""What the sidecars cost while nothing is moved: redis-benchmark against pods with them and without.

Three Redis servers, started in the same way: one in a pod with sidecars, two in pods without. A round is one
redis-benchmark against each, one after the other, in an order that changes from round to round; the two pods that are
equal say what the noise is.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from controller.demo import run as demo
from controller.lab.lab import Lab
from controller.lab.pod import Pod
from tests.bench.figures import PLAIN, TWIN, WITH_SIDECARS, Round, Steady
from tests.harness.leaks import fresh_home
from tests.harness.moving import listens, until

CLIENTS = 50
TESTS = "set,get"
BENCHMARK_SECONDS = 60
SAID_EVERY = 4


class Pods(msgspec.Struct, frozen=True):
    servers: dict[str, Pod]
    client: Pod


async def measure(rounds: int, requests: int, say: Callable[[str], None]) -> Steady:
    async with _pods() as pods:
        with _servers(pods):
            for pod in pods.servers.values():
                await until(partial(listens, pods.client, pod.address, demo.PORT), f"no Redis in {pod.name}")
            await asyncio.to_thread(_round, pods, [*pods.servers], requests)  # the first one warms everything
            sidecars = _sidecars(pods.servers[WITH_SIDECARS])
            began, used = asyncio.get_running_loop().time(), _cpu_seconds(sidecars)
            orders = itertools.islice(itertools.cycle(itertools.permutations(pods.servers)), rounds)
            done = []
            for number, order in enumerate(orders, 1):
                done.append(await asyncio.to_thread(_round, pods, [*order], requests))
                if number % SAID_EVERY == 0:
                    say(f"steady {number}/{rounds}: {_said(done[-1])}")
            seconds = asyncio.get_running_loop().time() - began
            return Steady(done, (_cpu_seconds(sidecars) - used) / seconds)


@asynccontextmanager
async def _pods() -> AsyncIterator[Pods]:
    lab = Lab(fresh_home())
    try:
        names = {"with": True, "without": False, "twin": False, "client": False}
        made = await asyncio.gather(*(lab.create(name, sidecars=sidecars) for name, sidecars in names.items()))
        yield Pods(dict(zip((WITH_SIDECARS, PLAIN, TWIN), made, strict=False)), made[3])
    finally:
        await lab.delete_all()
        await asyncio.to_thread(shutil.rmtree, lab.home, ignore_errors=True)


@contextmanager
def _servers(pods: Pods) -> Iterator[None]:
    """A Redis in each pod: not an agent's workload, for a pod without sidecars has no agent."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for pod in pods.servers.values():
            # Without --pid: the server is our own child, to be ended by us.
            enter = ("nsenter", f"--target={pod.pid1}", "--net", "--mount", "--ipc", "--uts", "--")
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen((*enter, *demo.REDIS), **quiet))  # type: ignore[call-overload]
        yield
    finally:
        for server in started:
            server.kill()
            server.wait()


def _said(one: Round) -> str:
    return ", ".join(f"{pod} {rates['GET']:,.0f} GET/s" for pod, rates in one.rates.items())


def _round(pods: Pods, order: list[str], requests: int) -> Round:
    return Round({name: _benchmark(pods, pods.servers[name], requests) for name in order})


def _benchmark(pods: Pods, server: Pod, requests: int) -> dict[str, float]:
    """Requests a second by test."""
    enter = ("nsenter", f"--net=/proc/{pods.client.pid1}/ns/net")
    target = ("-h", server.address, "-p", str(demo.PORT))
    argv = (*enter, "redis-benchmark", *target, "-c", str(CLIENTS), "-n", str(requests), "-t", TESTS, "--csv")
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=BENCHMARK_SECONDS)
    return parse_csv(done.stdout)


def parse_csv(text: str) -> dict[str, float]:
    """redis-benchmark's own table: {"SET": 61000.0, "GET": 64000.0}."""
    return {row["test"]: float(row["rps"]) for row in csv.DictReader(text.splitlines())}


def _sidecars(pod: Pod) -> list[int]:
    """The children of the pod's first process: its two sidecars."""
    return [int(word) for word in Path(f"/proc/{pod.pid1}/task/{pod.pid1}/children").read_text().split()]


def _cpu_seconds(pids: list[int]) -> float:
    return sum(_ticks(pid) for pid in pids) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime (proc_pid_stat(5))
