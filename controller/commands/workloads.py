"""Workloads: where they are, starting one, and what a move of one would be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import click

import checkpoint.api as agent_api
from controller import rates
from controller.clients import AgentClient
from controller.commands.output import say
from controller.core.choose import choose
from controller.core.errors import EXIT_REFUSED, Refused, Unreachable
from controller.core.files import locked_wherever_it_goes
from controller.core.hold import DEFAULT_SECONDS, predicted
from controller.core.plan import size_of
from controller.lab.lab import Lab
from controller.lab.pod import Pod


async def find_workload(lab: Lab, name: str, pod_name: str | None) -> Pod:
    """The pod that the workload is in; of several, the only one where it has not ended.

    Raises:
        Refused: no pod has it, or several do and none was named.
    """
    pods = [lab.pod(pod_name)] if pod_name else [pod for pod in lab.pods() if pod.alive]
    found = await workloads_of(pods)
    states = [(pod, each.state) for pod, workloads in found for each in workloads or () if each.name == name]
    living = [pod for pod, state in states if state != "exited"]
    having = living if len(living) == 1 else [pod for pod, _ in states]
    if not having:
        where = f"pod {pod_name}" if pod_name else "any pod"
        silent = ", ".join(pod.name for pod, workloads in found if workloads is None)
        message = f"there is no workload {name!r} in {where}" + (
            f", as far as they answer; {silent}: no answer" if silent else ""
        )
        hint = "midstream pod list shows the workloads"
        raise Refused("unknown-workload", message, "request", hint)
    if len(having) > 1:
        names = ", ".join(pod.name for pod in having)
        raise Refused(
            "ambiguous-workload",
            f"workload {name!r} is in the pods {names}",
            "request",
            "say which: --from POD, or --pod POD",
        )
    return having[0]


async def workloads_of(pods: Sequence[Pod]) -> list[tuple[Pod, list[agent_api.Workload] | None]]:
    """None: its agent does not answer, as that of a pod that is just being made; the others are none the worse."""
    found: list[tuple[Pod, list[agent_api.Workload] | None]] = []
    for pod in pods:
        if not pod.alive or not pod.sidecars:
            found.append((pod, []))
            continue
        async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
            try:
                found.append((pod, await agent.workloads()))
            except Unreachable:
                found.append((pod, None))
    return found


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
    from controller.views.tables import WorkloadCheck, show_workload_check  # here: `run` prints no table

    known = await asyncio.to_thread(rates.load, home)
    pod = await find_workload(Lab(home), name, pod_name)
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        found = await agent.inspect(name)
        features = (await agent.health()).memory
    size = size_of(found)
    choice, _ = choose("auto", size, known, features, no_post_copy=found.no_post_copy)
    links = "cleartext" if pod.cleartext_links else "TLS"
    locked, depends = locked_wherever_it_goes(found.belongings)
    problems = [*found.problems, *found.losses, *locked]
    long = predicted(choice, DEFAULT_SECONDS)
    view = WorkloadCheck(
        name, pod.name, size.processes, size.threads, size.memory_bytes, size.connections, links, choice, problems,
        [*found.warnings, *depends, *([long.problem] if long else [])],
    )  # fmt: skip
    say(view, as_json, show_workload_check)
    return EXIT_REFUSED if view.problems else 0


def base_environment() -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": "/root", "LANG": "C.UTF-8"}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Refused("bad-variable", f"{text!r} is not KEY=VALUE", "request")
    return name, value
