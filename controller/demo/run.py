"""`midstream demo`: two pods and a client's, a live Redis under load, one move, and what its clients noticed of it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import checkpoint.api as agent_api
from controller import rates
from controller.actions import Move
from controller.clients import AgentClient
from controller.commands.moves import MigrateRequest, drive, new_intent
from controller.commands.status import migrations_folder
from controller.commands.workloads import base_environment
from controller.core import hold
from controller.core.choose import Wanted
from controller.core.errors import MidstreamError
from controller.core.phases import Action
from controller.core.result import MigrationResult
from controller.core.transfer import Transfer
from controller.demo.options import Options
from controller.demo.process import LoadError, LoadProcess
from controller.demo.report import Window
from controller.demo.verdict import Verdict, judge
from controller.journal import Journal
from controller.lab.lab import Lab
from controller.lab.pod import Pod
from controller.views.progress import Display

PORT = 6379
STEADY_SECONDS = 2.0
"""How long the load runs before the move and again after it, so that there is something to compare with."""

MAX_HELD_BYTES = 64 << 20

READY_SECONDS = 20.0
FILL_BYTES_PER_SECOND = 100e6
"""What a busy machine manages; a quiet one is five times as fast."""

REDIS = ("redis-server", "--port", str(PORT), "--bind", "*", "-::*", "--protected-mode", "no", "--save", "",
         "--maxclients", "15000", "--client-output-buffer-limit", "pubsub 0 0 0")  # fmt: skip


@asynccontextmanager
async def pods(home: Path) -> AsyncIterator[tuple[Pod, Pod, Pod]]:
    """A lab with the pods a, b and client; nothing of it is left on the way out, its journal included."""
    lab = Lab(home)
    try:
        a, b, client = await asyncio.gather(lab.create("a"), lab.create("b"), lab.create("client", sidecars=False))
        yield a, b, client
    finally:
        await lab.delete_all()
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)


class Big(msgspec.Struct, frozen=True):
    """How much memory Redis gets, and how that travels."""

    fill_bytes: int = 0
    memory: Wanted = "auto"


async def run_demo(
    connections: int,
    json_file: Path | None,
    load: Options | None = None,
    big: Big = Big(),  # noqa: B008 - frozen
) -> int:
    """Runs the demo; the exit status, 0 only if nothing was lost."""
    with Display() as display:
        try:
            verdict = await _rehearse(connections, load, display, big)
        except LoadError as error:
            raise MidstreamError("load-failed", str(error), "machine", "see: midstream check") from error
        display.finish(verdict)
    if json_file:
        await asyncio.to_thread(_write_json, json_file, verdict)
    return verdict.exit_status


async def _rehearse(connections: int, load: Options | None, display: Display, big: Big) -> Verdict:
    """Pods up, Redis and its load running, the move in the middle, everything gone again."""
    home = Path(f"/run/midstream-demo-{os.getpid()}")
    async with pods(home) as (a, b, client):
        display.note(f"pods a ({a.address}), b ({b.address}) and client ({client.address}) are up")
        await start_redis(a)
        options = load or load_options(a, connections, big.fill_bytes)
        network = ("nsenter", f"--net=/proc/{client.pid1}/ns/net")
        async with await LoadProcess.start(options, display.load, network) as clients:
            ready = await clients.ready()
            display.note(f"Redis runs in a; {ready.connections} connections from client, every reply checked")
            await asyncio.sleep(STEADY_SECONDS)
            result, window = await move_redis(home, a, b, display, big.memory)
            await asyncio.sleep(STEADY_SECONDS)
            return judge(await clients.stop(), result, window)


def load_options(pod: Pod, connections: int, fill_bytes: int = 0) -> Options:
    """The demo's load against the Redis in `pod`; much memory takes its time to be written."""
    ready_seconds = READY_SECONDS + fill_bytes / FILL_BYTES_PER_SECOND
    return Options(
        host=pod.address, port=PORT, connections=connections, fill_bytes=fill_bytes, ready_seconds=ready_seconds
    )


def _write_json(path: Path, verdict: Verdict) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(verdict.result), indent=2) + b"\n")


async def start_redis(pod: Pod) -> None:
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        await agent.run(agent_api.RunWorkload("redis", list(REDIS), base_environment(), "/"))


async def move_redis(
    home: Path,
    source: Pod,
    destination: Pod,
    display: Display,
    memory: Wanted = "auto",
    transfer: Transfer = Transfer(),  # noqa: B008 - frozen
) -> tuple[MigrationResult, Window | None]:
    """Moves it; the migration's account and when it was frozen."""
    request = MigrateRequest(
        "redis", source.name, destination.name, hold.DEFAULT_SECONDS, MAX_HELD_BYTES, memory=memory, transfer=transfer
    )
    intent = new_intent(request, source.name)
    async with Move(intent, source, destination, await asyncio.to_thread(rates.load, home)) as move:
        result = await drive(move, Journal.begin(migrations_folder(home), intent), display)
        return result, _window(move)


def _window(move: Move) -> Window | None:
    """When the move was, by the driver's clock: wider than the truth by a round trip at each end."""
    if Action.STOP not in move.said_at:
        return None
    stopped = move.said_at[Action.STOP]
    resumed = move.answered_at.get(Action.RESUME, move.answered_at.get(Action.RELEASE, stopped))
    ended = move.answered_at.get(Action.REPOINT, resumed)
    return Window(min(move.said_at.values()), stopped, resumed, max(ended, resumed))
