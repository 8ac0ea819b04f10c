"""The command line: `midstream`.

Thin: each command reads its options, calls one function of the library, and prints what came of it. A MidstreamError
becomes one line on standard error and an exit status; anything else is a bug and shows as one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, get_args

import click

from controller import commands, image_cli
from controller import drain as draining
from controller.core.errors import EXIT_REFUSED, MidstreamError
from controller.core.predict import Wanted
from controller.quantity import DURATION, SIZE

EXAMPLES = """\b
Examples:
  midstream check                                    can this machine do it?
  midstream demo                                     see a live Redis change pods
  midstream pod create a && midstream pod create b
  midstream run --pod a --name redis -- redis-server --bind 0.0.0.0 --protected-mode no
  midstream migrate redis --to b --dry-run
  midstream migrate redis --to b
  midstream flows
"""


MEMORY_WAYS: tuple[str, ...] = get_args(Wanted)


class OneLineErrors(click.Group):
    """A group whose commands end with one line for whatever a person can do something about."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MidstreamError as error:
            click.echo(f"midstream: {one_line(error)}", err=True)
            ctx.exit(getattr(error, "exit_status", EXIT_REFUSED))


def one_line(error: MidstreamError) -> str:
    """What is wrong, whose fault it is, what to do."""
    hint = f"; {error.hint}" if error.hint else ""
    return f"{error.message} [{error.code}, fault: {error.fault}]{hint}"


@click.group(cls=OneLineErrors, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    default=Path("/run/midstream"),
    envvar="MIDSTREAM_HOME",
    show_default=True,
    help="Where the pods and the journal are.",
)
@click.version_option(package_name="midstream")
@click.pass_context
def main(ctx: click.Context, home: Path) -> None:
    """Moves a running process to another pod while every TCP connection it has stays open."""
    ctx.obj = home.absolute()


@main.group()
def pod() -> None:
    """Standalone pods: namespaces on this machine, each with a proxy and an agent."""


@pod.command("create")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--memory", type=SIZE, default=None, help="Memory limit, e.g. 512MiB (default: none).")
@click.option("--cleartext-links", is_flag=True, help="Proxies neither encrypt their links nor show certificates.")
@click.pass_obj
def pod_create(home: Path, names: tuple[str, ...], memory: float | None, cleartext_links: bool) -> None:
    """Creates pods and waits until their sidecars answer.

    \b
    Example: midstream pod create a b --memory 1GiB
    """
    asyncio.run(commands.create_pods(home, names, None if memory is None else int(memory), cleartext_links))


@pod.command("list")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def pod_list(home: Path, output: str) -> None:
    """Lists the pods with their addresses and workloads."""
    asyncio.run(commands.list_pods(home, output == "json"))


@pod.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--force", is_flag=True, help="Even where flows that are relayed through the pod would be cut.")
@click.pass_obj
def pod_delete(home: Path, names: tuple[str, ...], force: bool) -> None:
    """Deletes pods with everything in them.

    Refused while a pod runs a workload or relays flows, unless forced.
    """
    asyncio.run(commands.delete_pods(home, names, force))


@main.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--pod", "pod_name", required=True, help="The pod to run it in.")
@click.option("--name", required=True, help="The workload's name.")
@click.option("--env", "-e", "environment", multiple=True, metavar="KEY=VALUE", help="A variable of its environment.")
@click.option("--directory", default="/", show_default=True, help="Its working directory.")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.pass_obj
def run(
    home: Path, pod_name: str, name: str, environment: tuple[str, ...], directory: str, argv: tuple[str, ...]
) -> None:
    """Starts a workload in a pod; its output goes to <home>/pods/<pod>/<name>.log.

    \b
    Example: midstream run --pod a --name redis -- redis-server --bind 0.0.0.0 --protected-mode no
    """
    asyncio.run(commands.run_workload(home, pod_name, name, list(argv), environment, directory))


@main.command()
@click.argument("workload")
@click.option("--to", "destination", required=True, metavar="POD", help="The pod it goes to.")
@click.option("--from", "source", default=None, metavar="POD", help="The pod it is in, if its name is in several.")
@click.option("--dry-run", is_flag=True, help="Say what would be moved and what stands in the way; touch nothing.")
@click.option(
    "--max-hold",
    type=DURATION,
    default="10s",
    show_default=True,
    help="The longest time from the stop to the commit; past it the workload goes on where it was.",
)
@click.option(
    "--max-held-bytes",
    type=SIZE,
    default="64MiB",
    show_default=True,
    help="How much the peers may send during the hold, over all flows; past it TCP pushes back.",
)
@click.option("--allow-loss", is_flag=True, help="Reset the connections that cannot be kept, and move the rest.")
@click.option(
    "--memory",
    type=click.Choice(MEMORY_WAYS),
    default="auto",
    show_default=True,
    help="How its memory travels: inside the freeze, or afterwards, while it runs (post-copy).",
)
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
    request = commands.MigrateRequest(workload, source, destination, max_hold, int(max_held_bytes), allow_loss, memory)
    status = asyncio.run(commands.migrate(home, request, dry_run=dry_run, as_json=output == "json"))
    sys.exit(status)


@main.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def flows(home: Path, output: str) -> None:
    """Shows every flow that a proxy holds or relays, with its path."""
    asyncio.run(commands.show_flows(home, output == "json"))


@main.command()
@click.argument("pod")
@click.option("--wait", is_flag=True, help="Return when it relays nothing any more.")
@click.pass_obj
def drain(home: Path, pod: str, wait: bool) -> None:
    """Says what a pod still relays; exit status 0 when that is nothing."""
    sys.exit(asyncio.run(draining.drain(home, pod, wait=wait)))


@main.command()
@click.argument("migration", required=False)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def status(home: Path, migration: str | None, output: str) -> None:
    """Shows where migrations stand, or one of them in detail."""
    commands.show_status(home, migration, output == "json")


@main.command()
@click.argument("migration")
@click.pass_obj
def rollback(home: Path, migration: str) -> None:
    """Takes a migration back, as long as its commit has not happened."""
    sys.exit(asyncio.run(commands.rollback(home, migration)))


@main.command()
@click.argument("migration")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def resume(home: Path, migration: str, output: str) -> None:
    """Ends a migration whose controller died: forward if it had committed, back if not."""
    sys.exit(asyncio.run(commands.resume(home, migration, as_json=output == "json")))


@main.command()
@click.argument("workload", required=False)
@click.option("--pod", "pod_name", default=None, metavar="POD", help="The pod it is in, if its name is in several.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def check(home: Path, workload: str | None, pod_name: str | None, output: str) -> None:
    """Says whether this machine can move workloads, and what to do where it can't; of a WORKLOAD, what its move would
    take."""
    if workload is None:
        sys.exit(commands.check(output == "json"))
    sys.exit(asyncio.run(commands.check_workload(home, workload, pod_name, as_json=output == "json")))


@main.command()
@click.option("--connections", default=64, show_default=True, type=click.IntRange(1, 20000))
@click.option("--memory-size", type=SIZE, default=0, help="Memory that Redis is filled with, e.g. 1GiB.")
@click.option("--memory", type=click.Choice(MEMORY_WAYS), default="auto", show_default=True, help="How it travels.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the result there too."
)
@click.pass_obj
def demo(home: Path, connections: int, memory_size: float, memory: Wanted, json_file: Path | None) -> None:
    """Moves a live Redis between two pods under load and says what its clients noticed.

    \b
    Exit status: 0 only if no connection, byte or reply was lost.
    Examples:
      midstream demo --connections 200 --json out.json
      midstream demo --memory-size 1GiB --memory post-copy
    """
    from controller.demo.run import Big, run_demo

    sys.exit(asyncio.run(run_demo(connections, json_file, big=Big(int(memory_size), memory))))


main.add_command(image_cli.checkpoint)
main.add_command(image_cli.restore)
main.add_command(image_cli.images)

if __name__ == "__main__":
    main()
