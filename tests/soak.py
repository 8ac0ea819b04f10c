"""`make soak`: workloads move from pod to pod, again and again, under load; each move is a line.

Three of them take turns: a server with echoes, streams and slow readers; a Redis under the demo's load; and a client
of a server in another pod. Whoever talks to them checks every byte. The exit status is 0 only if nothing was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle, islice

from controller.core.result import MigrationResult
from controller.demo.options import Options
from controller.demo.process import LoadError, LoadProcess
from controller.demo.report import Report
from controller.lab.pod import Pod
from tests.harness.clients import Echo, Stream
from tests.harness.journeys import start_puppet
from tests.harness.moving import PORT, REDIS_PORT, Scene, scene
from tests.harness.outgoing import Outgoing

STEADY_SECONDS = 0.2
"""Between two moves: a connection that is moved has said something in the pod it is in."""

REDIS_LOAD = {
    "connections": 16,
    "subscribers": 2,
    "bulk_bytes_per_second": 4e6,
    "pipelines_per_second": 400.0,  # a tenth of a processor: the moves are what is tried here
    "probe_seconds": 0.05,
    "drain_seconds": 30.0,
    "limit_seconds": 24 * 3600.0,
}

Ending = Callable[[], Awaitable[None]]


class Losses:
    """What all moves together lost, and what the clients say of it in the end."""

    def __init__(self) -> None:
        self.flows = self.bytes = self.replies = self.moves = self.checked = 0
        self.troubles: list[str] = []

    def add(self, result: MigrationResult) -> None:
        self.moves += result.outcome == "succeeded"
        self.flows += result.flows.lost
        self.bytes += result.bytes.lost
        if result.outcome != "succeeded" or result.error is not None:
            self.troubles.append(f"{result.migration} {result.outcome}: {result.error}")
        unequal = [row.peer for row in result.ledger if not row.offsets_equal]
        self.troubles += [f"{result.migration}: the ledger of {peer} does not balance" for peer in unequal]

    def hear(self, report: Report) -> None:
        """What the Redis's clients saw, the newcomers too."""
        for one in report.connections:
            self.checked += one.replies
            self.replies += one.wrong + one.missing
            self.bytes += one.bytes_lost
        endings = [*(one.loss for one in report.connections), *(one.loss for one in report.probes)]
        self.flows += sum(loss is not None for loss in endings)
        self.troubles += [f"redis: {one}" for one in report.mistakes]
        self.troubles += [f"redis: {one.name}: {one.loss}" for one in report.connections if one.loss]
        self.troubles += [f"redis: a new connection: {one.loss}" for one in report.probes if one.loss]

    @property
    def any(self) -> bool:
        return bool(self.flows or self.bytes or self.replies or self.troubles)

    def __str__(self) -> str:
        """The last line."""
        lost = f"{self.flows} flows, {self.bytes} bytes and {self.replies} replies lost, {len(self.troubles)} troubles"
        checked = f"{self.checked:,} replies and every byte of the streams compared"
        return f"{self.moves} moves, {checked}: {lost if self.any else '0 lost'}"


async def soak(moves: int, connections: int, pods: int) -> Losses:
    losses = Losses()
    async with scene() as stage, AsyncExitStack() as stack:
        way = [stage.a, stage.b, *[await stage.lab.create(f"c{number}") for number in range(pods - 2)]]
        for begin in (server, redis, outgoing):
            await stack.enter_async_context(begin(stage, connections, losses))
        turns = cycle(("server", "redis", "puppet"))
        at = dict.fromkeys(("server", "redis", "puppet"), 0)
        for number, workload in enumerate(islice(turns, moves), 1):
            source = way[at[workload] % len(way)]
            at[workload] += 1
            await move(stage, number, workload, source, way[at[workload] % len(way)], losses)
            if losses.any:
                break
            await asyncio.sleep(STEADY_SECONDS)
    return losses


async def move(stage: Scene, number: int, workload: str, source: Pod, destination: Pod, losses: Losses) -> None:
    began = time.monotonic()
    result = await stage.move(workload, source, destination)
    losses.add(result)
    way = f"{workload:6}  {source.name} > {destination.name}"
    print(f"{number:4}  {way}  {line(result, time.monotonic() - began)}", flush=True)


def line(result: MigrationResult, seconds: float) -> str:
    """What is said of a move that took so long."""
    frozen = f"frozen {result.freeze_seconds * 1000:.0f} ms, {seconds:.1f} s in all, {result.flows.adopted} flows"
    return f"{result.outcome}, {frozen}, {result.flows.lost} flows and {result.bytes.lost} bytes lost"


@asynccontextmanager
async def server(stage: Scene, connections: int, losses: Losses) -> AsyncIterator[None]:
    """Half of its clients echo, a quarter stream as fast as they can, a quarter read slowly."""
    await stage.run_server()
    clients: list[Echo | Stream] = []
    for number in range(connections):
        slow = 0.005 if number % 4 == 3 else 0.0
        host = stage.a.address
        echo = number % 2 == 0
        clients.append(Echo(stage.client, host, PORT) if echo else Stream(stage.client, host, PORT, slow))
    try:
        yield
    finally:
        for client in clients:
            await _heard(client.finish, losses)


@asynccontextmanager
async def redis(stage: Scene, connections: int, losses: Losses) -> AsyncIterator[None]:
    await stage.run_redis()
    options = Options(host=stage.a.address, port=REDIS_PORT, **REDIS_LOAD)
    network = ("nsenter", f"--net=/proc/{stage.client.pid1}/ns/net")
    async with await LoadProcess.start(options, prefix=network) as load:
        await load.ready()
        try:
            yield
        finally:
            try:
                losses.hear(await load.stop())
            except LoadError as error:
                losses.troubles.append(f"redis: {error}")


@asynccontextmanager
async def outgoing(stage: Scene, connections: int, losses: Losses) -> AsyncIterator[None]:
    """The workload is the client here, of a server in the client's pod."""
    calls = Outgoing(stage, await start_puppet(stage), max(1, connections // 4))
    try:
        yield
    finally:
        await _heard(calls.finish, losses)


async def _heard(finish: Callable[[], None], losses: Losses) -> None:
    try:
        await asyncio.to_thread(finish)
    except (AssertionError, OSError) as error:
        losses.troubles.append(f"{finish.__qualname__}: {error!r}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak ARGS=...", description="Moves workloads again and again.")
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--connections", type=int, default=8, help="of the server; the Redis has some twenty more")
    parser.add_argument("--pods", type=int, default=2, choices=range(2, 7), help="between so many pods, in a ring")
    options = parser.parse_args()
    losses = asyncio.run(soak(options.moves, options.connections, options.pods))
    for trouble in losses.troubles:
        print(trouble)
    print(losses)
    return 1 if losses.any else 0


if __name__ == "__main__":
    sys.exit(main())
