"""Moves of a Redis with much memory under the demo's load, which writes all over it and reads it back; and CRIU's own
`dump` and `restore` of an idle one as large, to the same tmpfs: the floor under a freeze that has the memory in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from controller.core.choose import Wanted
from controller.core.transfer import Transfer
from controller.demo import run as demo
from controller.demo.process import LoadProcess
from controller.demo.verdict import Verdict, judge
from controller.views.progress import Display
from tests.bench.bare import floor_of_memory
from tests.bench.memory_figures import Memory, MemoryMove, MemoryPlan
from tests.bench.stage import Stage, kill_redis, redis_pid, stage

CONNECTIONS = 64
SETTLE_SECONDS = 2.0


async def move(scene: Stage, size_bytes: int, way: Wanted, transfer: Transfer) -> Verdict:
    """Redis with so much memory, under load, from a to b."""
    await demo.start_redis(scene.a)
    options = demo.load_options(scene.a, CONNECTIONS, size_bytes)
    async with await LoadProcess.start(options, prefix=scene.client_network) as load:
        await load.ready()
        await asyncio.sleep(SETTLE_SECONDS)
        with Display(quiet=True) as display:
            result, window = await demo.move_redis(scene.home, scene.a, scene.b, display, way, transfer)
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


def of(size_bytes: int, way: str, verdict: Verdict, *, direct: bool) -> MemoryMove:
    seen = verdict.result
    late, usual = seen.latency_while_memory_comes_seconds, seen.latency_otherwise_seconds
    return MemoryMove(
        way=way,
        direct=direct,
        memory_bytes=size_bytes,
        freeze_seconds=seen.freeze_seconds,
        stall_seconds=seen.stall_seconds.max if seen.stall_seconds else 0.0,
        total_seconds=seen.memory.total_seconds if seen.memory else 0.0,
        p99=late.p99 if late else None,
        p99_otherwise=usual.p99 if usual else None,
        reasons=list(verdict.reasons),
    )


async def measure(plan: MemoryPlan, say: Callable[[str], None]) -> Memory:
    """Each in fresh pods. CRIU alone and stop-and-copy take turns: a host gives memory more and more quickly."""
    moves = [await _moved(size, "post-copy", say) for size in plan.post_copy]
    before = await _alone(plan.copied, say)
    for direct in (False, True):
        one = await _moved(plan.copied, "stop-and-copy", say, direct=direct)
        after = await _alone(plan.copied, say)
        moves.append(msgspec.structs.replace(one, alone_seconds=(before + after) / 2))
        before = after
    return Memory(moves)


async def _moved(size_bytes: int, way: Wanted, say: Callable[[str], None], *, direct: bool = False) -> MemoryMove:
    async with stage() as scene:
        verdict = await move(scene, size_bytes, way, Transfer("direct" if direct else "shared"))
        one = of(size_bytes, way, verdict, direct=direct)
    say(f"{one.title}: frozen {one.freeze_seconds * 1e3:.0f} ms, {'; '.join(one.reasons) or '0 lost'}")
    return one


async def _alone(size_bytes: int, say: Callable[[str], None]) -> float:
    async with stage() as scene:
        seconds = await floor(scene, size_bytes)
    say(f"CRIU alone: {seconds * 1e3:.0f} ms")
    return seconds
