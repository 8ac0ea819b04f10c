"""The sections of the bench that move a Redis: each adds what it measured to the figures."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable

import msgspec

from tests.bench import bare, memory, relay, steady
from tests.bench.figures import Failure, Figures, Moved
from tests.bench.image_figures import Store, Transfer
from tests.bench.stage import Stage, move_under_load, quiet_under_load, stage
from tests.harness.interposer import DESTINATION_REFUSES, Spoil, between

Say = Callable[[str], None]

DEMO_CONNECTIONS = 64
FEW, MANY = 1, 1000
QUIET_EACH = 5
"""So many runs of the demo, one of its load alone."""

HOPELESS = 3
"""After so many failures in a row a section is given up: each may take a sidecar's whole start-up time."""


async def demo(figures: Figures, say: Say) -> None:
    """The demo, over and over, in fresh pods each time."""

    async def once(label: str) -> None:
        async with stage() as scene:
            await _floor(figures, scene, DEMO_CONNECTIONS, figures.plan.demo_runs // QUIET_EACH)
            _keep(figures, await move_under_load(scene, "demo", DEMO_CONNECTIONS), say, label)

    await _attempts(figures, "demo", say, figures.plan.demo_runs, once)


async def freeze(figures: Figures, say: Say) -> None:
    """Bare CRIU and Midstream in turn."""
    await _pairs(figures, say, "freeze", DEMO_CONNECTIONS, figures.plan.freeze_pairs)


async def scale(figures: Figures, say: Say) -> None:
    """The same with one connection, with a thousand, and with more than there are descriptors for links."""
    await _pairs(figures, say, "scale", FEW, figures.plan.one_pairs)
    await _pairs(figures, say, "scale", MANY, figures.plan.thousand_pairs)
    for connections, pairs in figures.plan.crowds.items():
        await _pairs(figures, say, "scale", connections, pairs)


async def steady_state(figures: Figures, say: Say) -> None:
    async def once(label: str) -> None:
        figures.steady = await steady.measure(figures.plan.steady_rounds, figures.plan.steady_requests, say)

    await _attempts(figures, "steady", say, 1, once)


async def relayed(figures: Figures, say: Say) -> None:
    """Connections that were moved, beside direct ones and HAProxy's."""

    async def once(label: str) -> None:
        figures.relay = await relay.measure(figures.plan.relay, say)

    await _attempts(figures, "relay", say, 1, once)


async def much_memory(figures: Figures, say: Say) -> None:
    async def once(label: str) -> None:
        figures.memory = await memory.measure(figures.plan.memory, say)

    await _attempts(figures, "memory", say, 1, once)


async def transferred(figures: Figures, say: Say) -> None:
    """Images from agent to agent, beside a plain TLS 1.3 socket."""
    plan = figures.plan.images

    async def once(label: str) -> None:
        said = await _program("tests.bench.transfer", "--size", str(plan.sent_bytes), "--rounds", str(plan.rounds))
        figures.transfer = msgspec.json.decode(said, type=Transfer)
        say(f"{label}: {', '.join(f'{pair.share:.2f} of a TLS socket' for pair in figures.transfer.pairs)}")

    await _attempts(figures, "transfer", say, 1, once)


async def stored(figures: Figures, say: Say) -> None:
    """Images through an object store, and damage to them."""
    plan = figures.plan.images

    async def once(label: str) -> None:
        said = await _program("tests.bench.store", "--size", str(plan.stored_bytes), "--damages", str(plan.damages))
        figures.store = msgspec.json.decode(said, type=Store)
        say(f"{label}: written at {figures.store.write / 1e6:.0f} MB/s, read at {figures.store.read / 1e6:.0f} MB/s")

    await _attempts(figures, "store", say, 1, once)


async def _program(module: str, *arguments: str) -> bytes:
    """What a program of the bench says, a process of its own, for its memory is measured. Raises RuntimeError."""
    argv = [sys.executable, "-m", module, *arguments]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}")
    return out


async def rollback(figures: Figures, say: Say) -> None:
    """The destination refuses, at each place in turn."""
    places = itertools.cycle(DESTINATION_REFUSES)

    async def once(label: str) -> None:
        place = next(places)
        async with stage() as scene:
            await _floor(figures, scene, DEMO_CONNECTIONS, 1)
            _keep(figures, await _refused(scene, place), say, f"{label}, {place}")

    await _attempts(figures, "rollback", say, figures.plan.rollback_rounds * len(DESTINATION_REFUSES), once)


SECTIONS: dict[str, Callable[[Figures, Say], Awaitable[None]]] = {
    "demo": demo,
    "freeze": freeze,
    "scale": scale,
    "steady": steady_state,
    "rollback": rollback,
    "relay": relayed,
    "memory": much_memory,
    "transfer": transferred,
    "store": stored,
}


async def _pairs(figures: Figures, say: Say, section: str, connections: int, pairs: int) -> None:
    async def once(label: str) -> None:
        label = f"{label}, {connections:,} connection{'s' * (connections != 1)}"
        async with stage() as scene:
            await _floor(figures, scene, connections, 1)
            figures.starts.append(await asyncio.to_thread(bare.start_seconds, scene.b))
            alone = await bare.dump_and_restore(scene, section, connections)
            figures.bares.append(alone)
            say(f"{label}: CRIU alone {alone.seconds * 1e3:.0f} ms")
            _keep(figures, await move_under_load(scene, section, connections), say, label)

    await _attempts(figures, section, say, pairs, once)


async def _refused(scene: Stage, place: str) -> Moved:
    party, method, ending, spare = DESTINATION_REFUSES[place]
    async with between(scene.b.agent_socket if party == "agent" else scene.b.proxy_socket) as interposer:
        interposer.spoil(method, ending, Spoil.REFUSE, spare)
        return await move_under_load(scene, "rollback", DEMO_CONNECTIONS, place)


async def _floor(figures: Figures, scene: Stage, connections: int, runs: int) -> None:
    """The load alone, in the same pods before they are needed, unless so many runs of it are there already."""
    if sum(one.connections == connections for one in figures.quiets) < runs:
        figures.quiets.append(await quiet_under_load(scene, connections))


def _keep(figures: Figures, move: Moved, say: Say, label: str) -> None:
    figures.moves.append(move)
    stall = max(move.stalls, default=0.0)
    said = f"{label}: {move.outcome}, frozen {move.freeze_seconds * 1e3:.0f} ms, longest stall {stall * 1e3:.0f} ms"
    say(f"{said}: {'; '.join(move.reasons)}" if move.reasons else said)


async def _attempts(
    figures: Figures, section: str, say: Say, runs: int, once: Callable[[str], Awaitable[None]]
) -> None:
    """`once` for each run. What makes one fail is written down, and the next goes on, unless nothing works any more."""
    in_a_row = 0
    for number in range(1, runs + 1):
        label = f"{section} {number}/{runs}"
        try:
            await once(label)
            in_a_row = 0
        except Exception as error:
            in_a_row += 1
            figures.failures.append(Failure(section, f"{type(error).__name__}: {error}"))
            say(f"{label}: failed: {figures.failures[-1].message}")
        if in_a_row == HOPELESS:
            say(f"{section}: given up after {HOPELESS} failures in a row")
            return
