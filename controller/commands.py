"""What the commands do, between the command line and the library."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

import checkpoint.api as agent_api
from controller import check as preflight_check
from controller import journal, rates
from controller.actions import Move
from controller.clients import AgentClient, ProxyClient
from controller.core.check import can_move
from controller.core.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_ROLLED_BACK, Refused
from controller.core.phases import Event, Phase
from controller.core.plan import refuse_what_cannot_move
from controller.core.predict import Sample, Wanted, choose
from controller.core.result import MigrationResult, given_up
from controller.display import Display
from controller.journal import Intent, Journal, Record
from controller.lab.lab import Lab
from controller.lab.pod import Pod
from controller.migrate import Driver, Observer
from controller.tables import (
    WorkloadCheck,
    show_checks,
    show_flows_table,
    show_plan,
    show_pods,
    show_records,
    show_workload_check,
)


class MigrateRequest(msgspec.Struct, frozen=True):
    workload: str
    source: str | None
    destination: str
    max_hold_seconds: float
    max_held_bytes: int
    allow_loss: bool = False
    memory: Wanted = "stop-and-copy"


def migrations_folder(home: Path) -> Path:
    return home / "migrations"


async def create_pods(home: Path, names: Sequence[str], memory_bytes: int | None, cleartext_links: bool) -> None:
    lab = Lab(home)
    making = (lab.create(name, memory_bytes=memory_bytes, cleartext_links=cleartext_links) for name in names)
    for created in await asyncio.gather(*making):
        click.echo(f"{created.name}: {created.address} {created.address6}")


async def find_workload(lab: Lab, name: str, pod_name: str | None) -> Pod:
    """The pod that the workload is in.

    Raises:
        Refused: no pod has it, or several do and none was named.
    """
    pods = [lab.pod(pod_name)] if pod_name else [pod for pod in lab.pods() if pod.alive]
    having = [pod for pod, workloads in await _workloads(pods) if any(each.name == name for each in workloads)]
    if not having:
        where = f"pod {pod_name}" if pod_name else "any pod"
        hint = "midstream pod list shows the workloads"
        raise Refused("unknown-workload", f"there is no workload {name!r} in {where}", "request", hint)
    if len(having) > 1:
        names = ", ".join(pod.name for pod in having)
        raise Refused("ambiguous-workload", f"workload {name!r} is in the pods {names}", "request", "say --from POD")
    return having[0]


async def migrate(home: Path, request: MigrateRequest, *, dry_run: bool, as_json: bool) -> int:
    """Moves a workload; the exit status."""
    lab = Lab(home)
    destination = lab.pod(request.destination)
    source = await find_workload(lab, request.workload, request.source)
    if source.name == destination.name:
        message = f"workload {request.workload!r} is in pod {source.name} already"
        raise Refused("same-pod", message, "request", "name another pod with --to")
    intent = new_intent(request, source.name)
    known = await asyncio.to_thread(rates.load, home)
    async with Move(intent, source, destination, known) as move:
        plan = await move.preflight()
        if dry_run:
            _print(plan, as_json, show_plan)
            return EXIT_REFUSED if plan.problems else 0
        refuse_what_cannot_move(plan)
        with Display(quiet=as_json) as display:
            result = await drive(move, Journal.begin(migrations_folder(home), intent), display)
            if result.outcome == "succeeded" and (sample := sample_of(result)) is not None:
                await asyncio.to_thread(rates.learn, home, known, sample)
            return conclude(result, display, as_json)


def sample_of(result: MigrationResult) -> Sample | None:
    """What a move teaches; None where it did not get so far."""
    if (seen := result.memory) is None:
        return None
    return Sample(seen.way, seen.memory_bytes, result.freeze_seconds, seen.total_seconds)


def new_intent(request: MigrateRequest, source: str) -> Intent:
    return Intent(
        migration=f"{request.workload}-{secrets.token_hex(3)}",
        workload=request.workload,
        source=source,
        destination=request.destination,
        max_hold_seconds=request.max_hold_seconds,
        max_held_bytes=request.max_held_bytes,
        allow_loss=request.allow_loss,
        memory=request.memory,
    )


async def drive(
    move: Move, log: Journal, observer: Observer, phase: Phase = Phase.PENDING, first: Event | None = None
) -> MigrationResult:
    """Drives a migration to its end. An interrupt from the keyboard asks for the rollback."""
    driver = Driver(move, log, observer, phase)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, driver.cancel)
    try:
        return await driver.run(first)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        log.close()


def conclude(result: MigrationResult, display: Display, as_json: bool) -> int:
    """Prints a result; the exit status it stands for."""
    display.finish(result)
    if as_json:
        print_json(result)
    return exit_status(result)


def exit_status(result: MigrationResult) -> int:
    if result.outcome == "rolled-back":
        untouched = not any(phase.name == Phase.PREPARING.value for phase in result.phases)
        return EXIT_REFUSED if untouched else EXIT_ROLLED_BACK
    kept = result.flows.lost == len(given_up(result)) and not result.bytes.lost
    return 0 if result.outcome == "succeeded" and kept else EXIT_FAILED


async def resume(home: Path, migration: str, *, as_json: bool) -> int:
    """Goes on with a migration whose controller died; the exit status."""
    log, record = _take_over(home, migration)
    async with _move_of(home, record) as move:
        with Display(quiet=as_json) as display:
            result = await drive(move, log, display, record.phase, Event.INTERRUPTED)
            return conclude(result, display, as_json)


async def rollback(home: Path, migration: str) -> int:
    """Takes a migration back, whether or not a controller drives it; the exit status."""
    record = _record(home, migration)
    if record.final:
        raise Refused("over", f"migration {migration} is over: {record.phase.value}", "request")
    async with _move_of(home, record) as move:
        await move.source_agent.outbound(migration, "release", agent_api.Custody)
    if record.driven:
        record = await _until_over(home, migration)
        click.echo(f"{migration}: {record.phase.value}")
        return 0 if record.phase is Phase.ROLLED_BACK else EXIT_FAILED
    status = await resume(home, migration, as_json=False)
    return 0 if status == EXIT_ROLLED_BACK else status


async def _until_over(home: Path, migration: str) -> Record:
    """The record once its controller has ended it, or has died, or a minute has passed."""
    deadline = time.monotonic() + 60
    while True:
        record = _record(home, migration)
        if record.final or not record.driven or time.monotonic() > deadline:
            return record
        await asyncio.sleep(0.05)


def show_status(home: Path, migration: str | None, as_json: bool) -> None:
    records = [_record(home, migration)] if migration else journal.read_all(migrations_folder(home))
    _print(records, as_json, lambda found: show_records(found, detailed=migration is not None))


async def show_flows(home: Path, as_json: bool) -> None:
    found = []
    for pod in Lab(home).pods():
        if not pod.alive:
            continue
        async with ProxyClient(f"proxy of pod {pod.name}", pod.proxy_socket) as proxy:
            found += [{"pod": pod.name, **msgspec.to_builtins(view)} for view in await proxy.flows()]
    _print(found, as_json, show_flows_table)


async def list_pods(home: Path, as_json: bool) -> None:
    rows = [
        {"name": pod.name, "address": pod.address, "address6": pod.address6, "alive": pod.alive,
         "cleartext_links": pod.cleartext_links,
         "workloads": msgspec.to_builtins(workloads)}
        for pod, workloads in await _workloads(Lab(home).pods())
    ]  # fmt: skip
    _print(rows, as_json, show_pods)


async def delete_pods(home: Path, names: Sequence[str], force: bool) -> None:
    lab = Lab(home)
    pods = [lab.pod(name) for name in names]
    for pod in pods:
        if pod.alive and not force:
            await _refuse_while_used(pod)
    for pod in pods:
        await lab.delete(pod.name)
        click.echo(f"{pod.name}: deleted")


async def run_workload(
    home: Path, pod_name: str, name: str, argv: list[str], environment: Sequence[str], directory: str
) -> None:
    pod = Lab(home).pod(pod_name)
    pairs = dict(_pair(each) for each in environment)
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        started = await agent.run(agent_api.RunWorkload(name, argv, {**base_environment(), **pairs}, directory))
    click.echo(f"{name}: process {started.pid} in pod {pod.name}, {pod.address}; log: {pod.log(name)}")


async def check_workload(home: Path, name: str, pod_name: str | None, *, as_json: bool) -> int:
    """Says what a move of a workload would be, wherever it went to; the exit status."""
    known = await asyncio.to_thread(rates.load, home)
    pod = await find_workload(Lab(home), name, pod_name)
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        found = await agent.inspect(name)
        features = (await agent.health()).memory
    choice, _ = choose("auto", found.memory_bytes, known, features)
    view = WorkloadCheck(
        name, pod.name, len(found.pids), found.memory_bytes, found.connections, choice, [*found.problems, *found.losses]
    )
    _print(view, as_json, show_workload_check)
    return EXIT_REFUSED if view.problems else 0


def check(as_json: bool) -> int:
    """Prints what speaks for and against this machine; the exit status."""
    results = preflight_check.run_checks()
    _print(results, as_json, show_checks)
    return 0 if can_move(results) else EXIT_REFUSED


async def _refuse_while_used(pod: Pod) -> None:
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        running = [each.name for each in await agent.workloads() if each.state != "exited"]
    async with ProxyClient(f"proxy of pod {pod.name}", pod.proxy_socket) as proxy:
        relayed = await proxy.flows()
    if running:
        raise Refused("pod-in-use", f"pod {pod.name} runs {', '.join(running)}", "request", "move it, or say --force")
    if relayed:
        message = f"pod {pod.name} relays {len(relayed)} flows, which would be cut"
        raise Refused("pod-in-use", message, "request", "wait until they have ended, or say --force")


async def _workloads(pods: Sequence[Pod]) -> list[tuple[Pod, list[agent_api.Workload]]]:
    found: list[tuple[Pod, list[agent_api.Workload]]] = []
    for pod in pods:
        if not pod.alive or not pod.sidecars:
            found.append((pod, []))
            continue
        async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
            found.append((pod, await agent.workloads()))
    return found


def _record(home: Path, migration: str) -> Record:
    path = migrations_folder(home) / f"{migration}.jsonl"
    if not path.is_file():
        raise journal.unknown_migration(migration)
    return journal.read(path)


def _take_over(home: Path, migration: str) -> tuple[Journal, Record]:
    log, record = Journal.take_over(migrations_folder(home), migration)
    if record.final:
        log.close()
        raise Refused("over", f"migration {migration} is over: {record.phase.value}", "request")
    return log, record


def _move_of(home: Path, record: Record) -> Move:
    lab = Lab(home)
    return Move(record.intent, lab.pod(record.intent.source), lab.pod(record.intent.destination))


def base_environment() -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": "/root", "LANG": "C.UTF-8"}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Refused("bad-variable", f"{text!r} is not KEY=VALUE", "request")
    return name, value


def _print(value: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    if as_json:
        print_json(value)
    else:
        show(value)


def print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
