"""The command line: `midstream`.

Thin: each command reads its options, calls one function of the library, and prints what came of it. A MidstreamError
becomes one line on standard error and an exit status; anything else is a bug and shows as one.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from controller.cli import images, interrupt, moves, pods
from controller.cli.options import MEMORY_WAY, SIZE
from controller.core.choose import Wanted
from controller.core.errors import EXIT_REFUSED, MidstreamError

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


EXIT_INTERRUPTED = 128 + signal.SIGINT
"""As a shell says it of a program that the signal has ended."""


class OneLineErrors(click.Group):
    """A group whose commands end with one line for whatever a person can do something about."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read our output has gone: click's to end
            raise
        except KeyboardInterrupt:  # by hand: nobody has to be told
            ctx.exit(EXIT_INTERRUPTED)
        except OSError as error:
            self._end(ctx, MidstreamError.of_system(error))
        except MidstreamError as error:
            self._end(ctx, error)

    def _end(self, ctx: click.Context, error: MidstreamError) -> NoReturn:
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


@main.command(short_help="Says whether this machine can move workloads.")
@click.argument("workload", required=False)
@click.option("--pod", "pod_name", default=None, metavar="POD", help="The pod it is in, if its name is in several.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def check(home: Path, workload: str | None, pod_name: str | None, output: str) -> None:
    """Says whether this machine can move workloads, and what to do where it can't; of a WORKLOAD, what its move would
    take."""
    if workload is None:
        if pod_name is not None:
            raise click.UsageError("--pod goes with a WORKLOAD")
        from controller.commands import machine

        interrupt.is_raised()
        sys.exit(machine.check_machine(output == "json"))
    from controller.commands import workloads

    sys.exit(interrupt.run(workloads.check_workload(home, workload, pod_name, as_json=output == "json")))


@main.command(short_help="Moves a live Redis under load, and says what clients saw.")
@click.option("--connections", default=64, show_default=True, type=click.IntRange(1, 20000))
@click.option("--memory-size", type=SIZE, default=0, help="Memory that Redis is filled with, e.g. 1GiB.")
@click.option("--memory", type=MEMORY_WAY, default="auto", show_default=True, help="How it travels.")
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

    sys.exit(interrupt.run(run_demo(connections, json_file, big=Big(int(memory_size), memory))))


for command in (
    *(pods.pod, pods.run, pods.flows, pods.drain),
    *(moves.migrate, moves.status, moves.rollback, moves.resume),
    *(images.checkpoint, images.restore, images.images),
):
    main.add_command(command)
