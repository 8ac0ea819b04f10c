"""`midstream pod`, `run`, `flows` and `drain`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from controller.cli import interrupt
from controller.cli.options import SIZE


@click.group(short_help="Standalone pods: namespaces, a proxy and an agent each.")
def pod() -> None:
    """Standalone pods: namespaces on this machine, each with a proxy and an agent."""


@pod.command("create")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--memory", type=SIZE, default=None, help="Memory limit, e.g. 512MiB (default: none).")
@click.option("--cleartext-links", is_flag=True, help="Proxies neither encrypt their links nor show certificates.")
@click.option("--own-root", is_flag=True, help="What they write stays their own: a layer over the machine's root.")
@click.option("--share", "shared", multiple=True, metavar="PATH", help="With --own-root: a folder of the machine's.")
@click.option("--image-space", type=SIZE, default=0, help="Keep images on a tmpfs of its own, of this size.")
@click.pass_obj
def pod_create(
    home: Path, names: tuple[str, ...], memory: float | None, cleartext_links: bool, own_root: bool,
    shared: tuple[str, ...], image_space: float,
) -> None:  # fmt: skip
    """Creates pods and waits until their sidecars answer.

    \b
    Examples:
      midstream pod create a b --memory 1GiB
      midstream pod create a b --own-root --share /srv
    """
    if shared and not own_root:
        raise click.UsageError("--share goes with --own-root: without it everything is shared")
    from controller.commands import pods

    wanted = pods.PodRequest(
        None if memory is None else int(memory), cleartext_links, own_root, shared, int(image_space)
    )
    interrupt.run(pods.create_pods(home, names, wanted))


@pod.command("list")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def pod_list(home: Path, output: str) -> None:
    """Lists the pods with their addresses and workloads."""
    from controller.commands import pods

    interrupt.run(pods.list_pods(home, output == "json"))


@pod.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--force", is_flag=True, help="Even where flows that are relayed through the pod would be cut.")
@click.pass_obj
def pod_delete(home: Path, names: tuple[str, ...], force: bool) -> None:
    """Deletes pods with everything in them.

    Refused while a pod runs a workload or relays flows, unless forced.
    """
    from controller.commands import pods

    interrupt.run(pods.delete_pods(home, names, force))


@click.command("run", context_settings={"ignore_unknown_options": True}, short_help="Starts a workload in a pod.")
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
    from controller.commands import workloads

    interrupt.run(workloads.run_workload(home, pod_name, name, list(argv), environment, directory))


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def flows(home: Path, output: str) -> None:
    """Shows every flow that a proxy holds or relays, with its path."""
    from controller.commands import pods

    interrupt.run(pods.show_flows(home, output == "json"))


@click.command(short_help="Says what a pod still relays.")
@click.argument("pod")
@click.option("--wait", is_flag=True, help="Return when it relays nothing any more.")
@click.pass_obj
def drain(home: Path, pod: str, wait: bool) -> None:
    """Says what a pod still relays; exit status 0 when that is nothing."""
    from controller.commands import drain as draining

    sys.exit(interrupt.run(draining.drain(home, pod, wait=wait)))
