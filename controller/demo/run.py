"""`midstream demo`: two pods and a client's, a live Redis under load, one move, and what its clients noticed of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import checkpoint.api as agent_api
from controller.actions import Move
from controller.clients import AgentClient
from controller.commands import MigrateRequest, base_environment, drive, migrations_folder, new_intent
from controller.core.errors import MidstreamError
from controller.core.phases import Action
from controller.core.result import MigrationResult
from controller.demo.options import Options, command_line
from controller.demo.report import DECODER, Failed, Ready, Report, Tick, Window
from controller.demo.verdict import Verdict, judge
from controller.display import Display
from controller.journal import Journal
from controller.lab.lab import Lab
from controller.lab.pod import Pod

PORT = 6379
STEADY_SECONDS = 2.0
"""How long the load runs before the move and again after it, so that there is something to compare with."""

MAX_HOLD_SECONDS = 10.0
MAX_HELD_BYTES = 64 << 20

REDIS = ("redis-server", "--port", str(PORT), "--bind", "*", "-::*", "--protected-mode", "no", "--save", "",
         "--maxclients", "15000", "--client-output-buffer-limit", "pubsub 0 0 0")  # fmt: skip


class Load:
    """The load client's process, in the client pod's network."""

    def __init__(self, process: asyncio.subprocess.Process, display: Display) -> None:
        self._process, self._display = process, display
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self.report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()

    async def listen(self) -> None:
        """Reads what the load says until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            match DECODER.decode(line):
                case Ready() as ready:
                    self.ready.set_result(ready)
                case Tick() as tick:
                    self._display.load(tick)
                case Report() as report:
                    self.report.set_result(report)
                case Failed(message):
                    self._fail(message)
        self._fail("the load ended before its time")

    async def stop(self) -> Report:
        """Lets it finish what it has begun and check everything once more."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"stop\n")
        await self._process.stdin.drain()
        return await self.report

    def _fail(self, message: str) -> None:
        error = MidstreamError("load-failed", f"the demo's load failed: {message}", "machine", "see: midstream check")
        for future in (self.ready, self.report):
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: whoever waits for it is told, and nobody else needs to be


@asynccontextmanager
async def load_in(pod: Pod, options: Options, display: Display) -> AsyncIterator[Load]:
    """The load, running in the network of `pod`; ended on the way out, whatever happened."""
    argv = [sys.executable, "-m", "controller.demo.load", *command_line(options)]
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net=/proc/{pod.pid1}/ns/net", *argv,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=64 << 20,
    )  # fmt: skip
    load = Load(process, display)
    listener = asyncio.create_task(load.listen(), name="load listener")
    try:
        yield load
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listener


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


async def run_demo(connections: int, json_file: Path | None, load: Options | None = None) -> int:
    """Runs the demo; the exit status, 0 only if nothing was lost."""
    with Display() as display:
        verdict = await _rehearse(connections, load, display)
        display.finish(verdict)
    if json_file:
        await asyncio.to_thread(_write_json, json_file, verdict)
    return verdict.exit_status


async def _rehearse(connections: int, load: Options | None, display: Display) -> Verdict:
    """Pods up, Redis and its load running, the move in the middle, everything gone again."""
    home = Path(f"/run/midstream-demo-{os.getpid()}")
    async with pods(home) as (a, b, client):
        display.note(f"pods a ({a.address}), b ({b.address}) and client ({client.address}) are up")
        await start_redis(a)
        options = load or Options(host=a.address, port=PORT, connections=connections)
        async with load_in(client, options, display) as clients:
            ready = await clients.ready
            display.note(f"Redis runs in a; {ready.connections} connections from client, every reply checked")
            await asyncio.sleep(STEADY_SECONDS)
            result, window = await move_redis(home, a, b, display)
            await asyncio.sleep(STEADY_SECONDS)
            return judge(await clients.stop(), result, window)


def _write_json(path: Path, verdict: Verdict) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(verdict.result), indent=2) + b"\n")


async def start_redis(pod: Pod) -> None:
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        await agent.run(agent_api.RunWorkload("redis", list(REDIS), base_environment(), "/"))


async def move_redis(
    home: Path, source: Pod, destination: Pod, display: Display
) -> tuple[MigrationResult, Window | None]:
    """Moves it; the migration's account and when it was frozen."""
    request = MigrateRequest("redis", source.name, destination.name, MAX_HOLD_SECONDS, MAX_HELD_BYTES)
    intent = new_intent(request, source.name)
    async with Move(intent, source, destination) as move:
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
