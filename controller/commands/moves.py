"""Moves: beginning one, going on with one, taking one back."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from pathlib import Path

import click
import msgspec

import checkpoint.api as agent_api
from checkpoint.api import Files
from controller import rates
from controller.actions import Move
from controller.commands.output import say, say_json, warn
from controller.commands.status import migrations_folder, record_of
from controller.commands.workloads import find_workload
from controller.core.choose import Wanted
from controller.core.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_ROLLED_BACK, Refused
from controller.core.phases import Event, Phase
from controller.core.plan import refuse_what_cannot_move
from controller.core.predict import Sample, Size
from controller.core.result import MigrationResult, given_up
from controller.core.transfer import Transfer
from controller.journal import Intent, Journal, Record
from controller.lab.lab import Lab
from controller.migrate import Driver, Observer
from controller.preflight import preflight
from controller.transfer import Depot
from controller.views.progress import Display
from controller.views.tables import show_plan


class MigrateRequest(msgspec.Struct, frozen=True):
    workload: str
    source: str | None
    destination: str
    max_hold_seconds: float
    max_held_bytes: int
    allow_loss: bool = False
    memory: Wanted = "stop-and-copy"
    transfer: Transfer = Transfer()
    files: Files = Files()
    depot: Depot | None = None


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
    async with Move(intent, source, destination, known, request.depot) as move:
        plan = await preflight(move, intent, known)
        if dry_run:
            say(plan, as_json, show_plan)
            return EXIT_REFUSED if plan.problems else 0
        refuse_what_cannot_move(plan)
        for warning in plan.warnings:
            warn(warning)
        with Display(quiet=as_json) as display:
            result = await drive(move, Journal.begin(migrations_folder(home), intent), display)
            if result.outcome == "succeeded" and (sample := sample_of(result, plan.size, intent.transfer)) is not None:
                await asyncio.to_thread(rates.learn, home, known, sample)
            return conclude(result, display, as_json)


def sample_of(result: MigrationResult, size: Size, transfer: Transfer) -> Sample | None:
    """What a move teaches; None where it did not get so far, or had to wait for what other moves do not wait for."""
    if (seen := result.memory) is None or transfer.bytes_per_second or transfer.way == "store":
        return None
    return Sample(seen.way, size, result.freeze_seconds, seen.total_seconds, seen.early_bytes > 0)


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
        transfer=request.transfer,
        files=request.files,
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
        say_json(result)
    return exit_status(result)


def exit_status(result: MigrationResult) -> int:
    if result.outcome == "rolled-back":
        untouched = not any(phase.name == Phase.PREPARING.value for phase in result.phases)
        return EXIT_REFUSED if untouched else EXIT_ROLLED_BACK
    kept = result.flows.lost == len(given_up(result)) and not result.bytes.lost and result.error is None
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
    record = record_of(home, migration)
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
        record = record_of(home, migration)
        if record.final or not record.driven or time.monotonic() > deadline:
            return record
        await asyncio.sleep(0.05)


def _take_over(home: Path, migration: str) -> tuple[Journal, Record]:
    log, record = Journal.take_over(migrations_folder(home), migration)
    if record.final:
        log.close()
        raise Refused("over", f"migration {migration} is over: {record.phase.value}", "request")
    return log, record


def _move_of(home: Path, record: Record) -> Move:
    lab = Lab(home)
    return Move(record.intent, lab.pod(record.intent.source), lab.pod(record.intent.destination))
