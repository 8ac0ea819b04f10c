"""One migration of the demo's Redis under the demo's load, measured: the demo's own parts, without its display."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from controller.actions import Move
from controller.clients import AgentClient
from controller.commands.moves import MigrateRequest, new_intent
from controller.commands.status import migrations_folder
from controller.core.phases import Action
from controller.core.result import MigrationResult
from controller.demo import run as demo
from controller.demo.options import Options
from controller.demo.process import LoadProcess
from controller.demo.report import Probe, Report, Window, probes_in_freeze, stalls, steady_stalls
from controller.demo.result import DemoResult
from controller.demo.verdict import NOT_MOVED, judge
from controller.journal import Journal
from controller.lab.pod import Pod
from controller.migrate import Driver
from tests.bench.figures import Losses, Moved, Quiet
from tests.harness.leaks import fresh_home
from tests.harness.moving import Silent

BEFORE_SECONDS = 1.2
"""How long the load runs before the move: 120 turns of each connection."""

AFTER_SECONDS = 1.3
"""And after it: longer than a lost packet's first retransmission. What is due then is waited for in any case."""

CROWD = 1000
"""With more connections than this a newcomer's descriptors, and what it asks for, are missed elsewhere."""

HALF_IDLE = 10_000
"""Of so many half ask nothing: they are more than there are descriptors for links, and flows lend these each other."""

MAX_HOLD_SECONDS = 60.0
"""What is measured is how long it takes: not to be taken back because that is long."""


class Stage(msgspec.Struct, frozen=True):
    """Pods a, b and client in a lab of their own."""

    home: Path
    a: Pod
    b: Pod
    client: Pod

    @property
    def client_network(self) -> tuple[str, ...]:
        """What to put before a command to run it in the client's network."""
        return "nsenter", f"--net=/proc/{self.client.pid1}/ns/net"


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Fresh pods; nothing of them is left afterwards."""
    home = fresh_home()
    async with demo.pods(home) as (a, b, client):
        yield Stage(home, a, b, client)


def options_for(scene: Stage, connections: int) -> Options:
    """The demo's load; for a single connection nothing beside it, no probes either."""
    if connections == 1:
        return Options(
            host=scene.a.address, port=demo.PORT, connections=1, subscribers=0, channels=0, bulk=0, probe_seconds=0
        )
    probe_seconds = 0.005 if connections <= CROWD else 0.05  # a newcomer needs descriptors too
    idle = connections // 2 if connections >= HALF_IDLE else 0
    return Options(
        host=scene.a.address, port=demo.PORT, connections=connections, idle=idle, probe_seconds=probe_seconds
    )


@asynccontextmanager
async def loaded(scene: Stage, connections: int) -> AsyncIterator[LoadProcess]:
    """A Redis in a, and its load, every connection answered. The Redis is the caller's to end, or the pod's."""
    await demo.start_redis(scene.a)
    options = options_for(scene, connections)
    async with await LoadProcess.start(options, prefix=scene.client_network) as load:
        await load.ready()
        yield load


async def redis_pid(pod: Pod) -> int:
    """As the pod numbers it."""
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        return (await agent.inspect("redis")).workload.pid


async def kill_redis(pod: Pod) -> None:
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        await agent.kill("redis")


async def move_under_load(scene: Stage, section: str, connections: int, place: str = "") -> Moved:
    """Redis and its load in a, the move to b, and what was seen of it."""
    async with loaded(scene, connections) as load:
        await asyncio.sleep(BEFORE_SECONDS)
        gc.collect()  # or the bench's own garbage would be collected inside a freeze
        move, result, window = await _drive(scene)
        await asyncio.sleep(AFTER_SECONDS)
        return account(section, connections, place, move, result, await load.stop(), window)


async def quiet_under_load(scene: Stage, connections: int) -> Quiet:
    """The same for as long, and no move. Leaves no Redis behind."""
    async with loaded(scene, connections) as load:
        await asyncio.sleep(BEFORE_SECONDS + AFTER_SECONDS)
        report = await load.stop()
    await kill_redis(scene.a)
    return Quiet(connections, steady_stalls(report, None), _connects(report.probes))


async def _drive(scene: Stage) -> tuple[Move, MigrationResult, Window]:
    request = MigrateRequest("redis", "a", "b", MAX_HOLD_SECONDS, demo.MAX_HELD_BYTES)
    intent = new_intent(request, "a")
    log = Journal.begin(migrations_folder(scene.home), intent)
    try:
        async with Move(intent, scene.a, scene.b) as move:
            result = await Driver(move, log, Silent()).run()
            return move, result, window_of(move, time.monotonic())
    finally:
        log.close()


def window_of(move: Move, over: float) -> Window:
    """When the move was, by the driver's clock; a move that never stopped anything has an empty freeze at its end."""
    began = min(move.said_at.values())
    if Action.STOP not in move.said_at:
        return Window(began, over, over, over)
    resumed = move.answered_at.get(Action.RESUME, move.answered_at.get(Action.RELEASE, over))
    repointed = move.answered_at.get(Action.REPOINT, resumed)
    return Window(began, move.said_at[Action.STOP], resumed, max(resumed, repointed))


def account(
    section: str, connections: int, place: str, move: Move, result: MigrationResult, report: Report, window: Window
) -> Moved:
    verdict = judge(report, result, window)
    seen = verdict.result
    frozen = probes_in_freeze(report, window)
    expected = place and verdict.exit_status == NOT_MOVED and result.outcome == "rolled-back"
    return Moved(
        section=section,
        connections=connections,
        place=place,
        outcome=result.outcome,
        freeze_seconds=result.freeze_seconds,
        hold_seconds=result.hold_seconds,
        flows=result.flows.adopted,
        phases={phase.name: phase.seconds for phase in result.phases},
        agents=dict(move.seconds),
        calls={action.name: at - move.said_at[action] for action, at in move.answered_at.items()},
        criu_dump=dict(move.dumped.criu_seconds) if move.dumped else {},
        stalls=stalls(report, window),
        connects=_connects(frozen),
        replies=seen.replies_checked,
        newcomers=seen.new_connections.opened,
        losses=_losses(seen),
        reasons=[]
        if expected
        else [*verdict.reasons, *_error(result), *_unequal(result), *_not_refused(place, result)],
    )


def _not_refused(place: str, result: MigrationResult) -> list[str]:
    """A move that was to be taken back and was not."""
    return [f"{result.outcome} although the destination refused"] if place and result.outcome != "rolled-back" else []


def _error(result: MigrationResult) -> list[str]:
    return [f"{result.error.message} [{result.error.code}]"] if result.error else []


def _unequal(result: MigrationResult) -> list[str]:
    """The first account that does not balance, for whoever looks for the cause."""
    rows = [row for row in result.ledger if not row.offsets_equal][:1]
    return [f"the first of them: {msgspec.json.encode(row).decode()}" for row in rows]


def _connects(probes: list[Probe]) -> list[float]:
    return [round(probe.connected - probe.began, 6) for probe in probes if probe.connected is not None]


def _losses(seen: DemoResult) -> Losses:
    return Losses(
        connections=seen.connections.lost,
        newcomers=seen.new_connections.failed,
        resets=seen.resets,
        wrong=seen.replies_wrong,
        missing=seen.replies_missing,
        bytes=seen.client_bytes_lost,
        ledger_flows=max(seen.flows.lost, sum(not row.offsets_equal for row in seen.ledger)),
        ledger_bytes=seen.bytes.lost,
    )
