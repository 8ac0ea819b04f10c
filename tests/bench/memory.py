"""Big memory: `python -m tests.bench.memory [--size 1GiB …]`: the demo with much memory, beside CRIU alone.

For each size one move by post-copy under the demo's load, which writes all over the memory and reads it back; for the
first size also one move by stop-and-copy and CRIU's own `dump` and `restore` of an idle Redis as large, to the same
tmpfs: the floor under a freeze that has the memory in it. Prints a table; exit status 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from controller.core.predict import Wanted
from controller.core.units import parse_bytes
from controller.demo import run as demo
from controller.demo.process import LoadProcess
from controller.demo.verdict import Verdict, judge
from controller.views.panels import byte_text, duration_text
from controller.views.progress import Display
from tests.bench.bare import floor_of_memory
from tests.bench.stage import Stage, kill_redis, redis_pid, stage

CONNECTIONS = 64
SETTLE_SECONDS = 2.0
GOALS = "goals: post-copy frozen 250 ms at most, stall 350 ms at most, 0 lost; stop-and-copy 1.15 times the floor"


async def move(scene: Stage, size_bytes: int, way: Wanted) -> Verdict:
    """Redis with so much memory, under load, from a to b."""
    await demo.start_redis(scene.a)
    options = demo.load_options(scene.a, CONNECTIONS, size_bytes)
    async with await LoadProcess.start(options, prefix=scene.client_network) as load:
        await load.ready()
        await asyncio.sleep(SETTLE_SECONDS)
        with Display(quiet=True) as display:
            result, window = await demo.move_redis(scene.home, scene.a, scene.b, display, way)
        await asyncio.sleep(SETTLE_SECONDS)
        return judge(await load.stop(), result, window)


async def floor(scene: Stage, size_bytes: int) -> float:
    """Seconds that CRIU alone takes for a Redis as large that nobody uses."""
    await demo.start_redis(scene.a)
    await _fill(scene, size_bytes)
    try:
        return await asyncio.to_thread(floor_of_memory, scene, await redis_pid(scene.a))
    finally:
        await kill_redis(scene.a)


async def _fill(scene: Stage, size_bytes: int) -> None:
    options = demo.load_options(scene.a, 1, size_bytes)
    async with await LoadProcess.start(options, prefix=scene.client_network) as load:
        await load.ready()
        await load.stop()


def row(size_bytes: int, way: str, verdict: Verdict) -> str:
    seen = verdict.result
    stall = seen.stall_seconds
    late, usual = seen.latency_while_memory_comes_seconds, seen.latency_otherwise_seconds
    cells = [
        byte_text(size_bytes),
        way,
        f"frozen {duration_text(seen.freeze_seconds)}",
        f"stall {duration_text(stall.max)}" if stall else "-",
        f"in all {duration_text(seen.memory.total_seconds)}" if seen.memory else "-",
        f"p99 while it came {duration_text(late.p99)}" if late else "-",
        f"p99 otherwise {duration_text(usual.p99)}" if usual else "-",
        "0 lost" if not verdict.exit_status else "; ".join(verdict.reasons),
    ]
    return "  ".join(cells)


async def measure(sizes: list[int]) -> int:
    worst = 0
    for size in sizes:
        for way in ("post-copy", "stop-and-copy") if size == sizes[0] else ("post-copy",):
            async with stage() as scene:
                verdict = await move(scene, size, way)
            print(row(size, way, verdict), flush=True)
            worst = max(worst, verdict.exit_status)
    async with stage() as scene:
        print(f"{byte_text(sizes[0])}  CRIU alone  {duration_text(await floor(scene, sizes[0]))}")
    print(GOALS)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=parse_bytes, action="append", help="e.g. 1GiB; may be said several times")
    return asyncio.run(measure(parser.parse_args().size or [1 << 30, 4 << 30]))


if __name__ == "__main__":
    sys.exit(main())
