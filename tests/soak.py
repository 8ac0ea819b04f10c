"""`make soak`: a server moves from pod to pod to pod, again and again, under load; each move is a line.

The clients check every byte. The exit status is 0 only if nothing was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from itertools import cycle, islice, pairwise

from controller.core.result import MigrationResult
from controller.lab.pod import Pod
from tests.harness.clients import Echo, Stream
from tests.harness.moving import PORT, Scene, scene

Client = Echo | Stream
STRAIGHT_SECONDS = 30.0


class Losses:
    """What all moves together lost, and what the clients say of it in the end."""

    def __init__(self) -> None:
        self.flows = self.bytes = self.moves = 0
        self.troubles: list[str] = []

    def add(self, result: MigrationResult) -> None:
        self.moves += result.outcome == "succeeded"
        self.flows += result.flows.lost
        self.bytes += result.bytes.lost

    @property
    def any(self) -> bool:
        return bool(self.flows or self.bytes or self.troubles)


async def soak(moves: int, connections: int) -> Losses:
    losses = Losses()
    async with scene() as stage:
        pods = [stage.a, stage.b, await stage.lab.create("c")]
        await stage.run_server()
        clients = dial(stage, connections)
        try:
            for number, (source, destination) in enumerate(pairwise(islice(cycle(pods), moves + 1)), 1):
                began = time.monotonic()
                result = await stage.move("server", source, destination)
                losses.add(result)
                print(line(number, result, source.name, destination.name, time.monotonic() - began), flush=True)
                await straight(stage, pods)
                if result.outcome != "succeeded":
                    losses.troubles.append(str(result.error))
                    break
        finally:
            for client in clients:
                await end(client, losses)
    return losses


async def straight(stage: Scene, pods: list[Pod]) -> None:
    """Until every flow takes its straight way, or half a minute has passed: old ways, full of bytes that a slow reader
    has still before it, would pile up otherwise, megabytes each."""
    deadline = time.monotonic() + STRAIGHT_SECONDS
    while time.monotonic() < deadline:
        views = [view for pod in pods for view in await stage.flows(pod)]
        found = Counter((view.flow, view.side) for view in views)
        if max(found.values(), default=1) == 1:
            return
        await asyncio.sleep(0.05)


def dial(stage: Scene, connections: int) -> list[Client]:
    """Half of them echo, a quarter stream as fast as they can, a quarter read slowly."""
    host = stage.a.address
    made: list[Client] = []
    for number in range(connections):
        slow = 0.005 if number % 4 == 3 else 0.0
        made.append(Echo(stage.client, host, PORT) if number % 2 == 0 else Stream(stage.client, host, PORT, slow))
    return made


async def end(client: Client, losses: Losses) -> None:
    try:
        await asyncio.to_thread(client.finish)
    except AssertionError as error:
        losses.troubles.append(str(error))


def line(number: int, result: MigrationResult, source: str, destination: str, seconds: float) -> str:
    lost = f"{result.flows.lost} flows and {result.bytes.lost} bytes lost"
    frozen = f"frozen {result.freeze_seconds * 1000:.0f} ms"
    return f"{number:4}  {source} > {destination}  {result.outcome}, {frozen}, {seconds:.1f} s in all, {lost}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak ARGS=...", description="Moves a server again and again.")
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    losses = asyncio.run(soak(options.moves, options.connections))
    for trouble in losses.troubles:
        print(trouble)
    wrong = len(losses.troubles)
    said = f"{losses.flows} flows, {losses.bytes} bytes and {wrong} replies lost" if losses.any else "0 lost"
    print(f"{losses.moves} moves, {options.connections} connections: {said}")
    return 1 if losses.any else 0


if __name__ == "__main__":
    sys.exit(main())
