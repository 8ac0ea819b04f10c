"""`midstream migrate`, `status`, `rollback` and `resume`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from controller.archive import archive_at, key_source
from controller.cli import interrupt
from controller.cli.images import archive_option, keyed
from controller.cli.options import HOLD, MEMORY_WAY, RATE, SIZE, TRANSFER_WAY
from controller.core.choose import Wanted
from controller.core.hold import DEFAULT_SECONDS
from controller.core.transfer import STREAMS, Transfer, WantedTransfer


@click.command(short_help="Moves a workload; its TCP connections stay open.")
@click.argument("workload")
@click.option("--to", "destination", required=True, metavar="POD", help="The pod it goes to.")
@click.option("--from", "source", default=None, metavar="POD", help="The pod it is in, if its name is in several.")
@click.option("--dry-run", is_flag=True, help="Say what would be moved and what stands in the way; touch nothing.")
@click.option(
    "--max-hold",
    type=HOLD,
    default=f"{DEFAULT_SECONDS:g}s",
    show_default=True,
    help="The longest time from the stop to the commit; past it the workload goes on where it was.",
)
@click.option(
    "--max-held-bytes",
    type=SIZE,
    default="64MiB",
    show_default=True,
    help="How much the peers may send in a hold of over half a second, all flows together; past it TCP pushes back.",
)
@click.option("--allow-loss", is_flag=True, help="Reset the connections that cannot be kept, and move the rest.")
@click.option(
    "--memory",
    type=MEMORY_WAY,
    default="auto",
    show_default=True,
    help="How its memory travels: inside the freeze, or while it runs: after it (post-copy) or before it (pre-copy).",
)
@click.option(
    "--transfer",
    type=TRANSFER_WAY,
    default="auto",
    show_default=True,
    help="How its images travel: in a folder that both agents see, from agent to agent, or by way of an archive.",
)
@click.option("--transfer-rate", type=RATE, default=0, help="With direct: bytes a second at most, e.g. 100MiB.")
@click.option(
    "--transfer-streams",
    type=click.IntRange(1, 8),
    default=STREAMS,
    show_default=True,
    help="With direct: connections at once.",
)
@click.option("--with", "named", multiple=True, metavar="FOLDER", help="Move what is in this folder too.")
@click.option("--replace-newer-files", is_flag=True, help="Also files that the destination has changed later.")
@click.option(
    "--max-ghost-size",
    type=SIZE,
    default="64MiB",
    show_default=True,
    help="The largest deleted file, still in use, that moves inside the freeze; less than 4GiB.",
)
@archive_option("--archive", "-a")
@keyed
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def migrate(
    home: Path,
    workload: str,
    destination: str,
    source: str | None,
    dry_run: bool,
    max_hold: float,
    max_held_bytes: float,
    allow_loss: bool,
    memory: Wanted,
    transfer: WantedTransfer,
    transfer_rate: float,
    transfer_streams: int,
    named: tuple[str, ...],
    replace_newer_files: bool,
    max_ghost_size: float,
    archive: str,
    key_file: Path | None,
    key_command: str | None,
    output: str,
) -> None:
    """Moves a workload to another pod; every TCP connection it has stays open.

    \b
    Exit status: 0 moved, 1 refused (nothing was touched), 3 rolled back (it runs where it was),
    4 failed (it is lost, or its state is not known).
    \b
    Examples:
      midstream migrate redis --to b --dry-run
      midstream migrate redis --to b --max-hold 2s -o json
    """
    if transfer_rate and transfer in ("shared", "store"):
        raise click.UsageError(f"--transfer-rate goes with --transfer direct, or auto: {transfer} has no limit")
    from checkpoint.api import MOST_GHOST_BYTES, Files
    from controller.commands import moves
    from controller.transfer import Depot

    files = Files([*named], replace_newer_files, min(int(max_ghost_size), MOST_GHOST_BYTES))
    request = moves.MigrateRequest(
        workload, source, destination, max_hold, int(max_held_bytes), allow_loss, memory,
        Transfer(transfer, transfer_streams, transfer_rate), files,
        Depot(archive_at(archive), key_source(key_file, key_command)) if transfer == "store" else None,
    )  # fmt: skip
    status = interrupt.run(moves.migrate(home, request, dry_run=dry_run, as_json=output == "json"))
    sys.exit(status)


@click.command()
@click.argument("migration", required=False)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def status(home: Path, migration: str | None, output: str) -> None:
    """Shows where migrations stand, or one of them in detail."""
    from controller.commands.status import show_status

    interrupt.is_raised()
    show_status(home, migration, output == "json")


@click.command(short_help="Takes a migration back, before its commit.")
@click.argument("migration")
@click.pass_obj
def rollback(home: Path, migration: str) -> None:
    """Takes a migration back, as long as its commit has not happened."""
    from controller.commands import moves

    sys.exit(interrupt.run(moves.rollback(home, migration)))


@click.command(short_help="Ends a migration whose controller died.")
@click.argument("migration")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def resume(home: Path, migration: str, output: str) -> None:
    """Ends a migration whose controller died: forward if it had committed, back if not."""
    from controller.commands import moves

    sys.exit(interrupt.run(moves.resume(home, migration, as_json=output == "json")))
