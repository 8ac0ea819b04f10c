"""Pods: made, listed, deleted, and what their proxies relay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from controller.clients import AgentClient, ProxyClient
from controller.commands.output import say_json
from controller.commands.workloads import workloads_of
from controller.core.errors import Refused, Unreachable
from controller.lab.lab import Lab
from controller.lab.pod import Pod


class PodRequest(msgspec.Struct, frozen=True):
    memory_bytes: int | None
    cleartext_links: bool
    own_root: bool
    shared: tuple[str, ...]
    image_bytes: int = 0


async def create_pods(home: Path, names: Sequence[str], wanted: PodRequest) -> None:
    _refuse_twice(names)
    lab = Lab(home)
    making = (lab.create(name, **msgspec.structs.asdict(wanted)) for name in names)
    for created in await asyncio.gather(*making):
        click.echo(f"{created.name}: {created.address} {created.address6}")


def _refuse_twice(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Refused("named-twice", f"{', '.join(twice)}: named twice", "request", "every pod has a name of its own")


async def list_pods(home: Path, as_json: bool) -> None:
    rows = [
        {"name": pod.name, "address": pod.address, "address6": pod.address6, "alive": pod.alive,
         "answers": workloads is not None, "cleartext_links": pod.cleartext_links, "own_root": pod.own_root,
         "shared": pod.shared, "workloads": msgspec.to_builtins(workloads or [])}
        for pod, workloads in await workloads_of(Lab(home).pods())
    ]  # fmt: skip
    if as_json:
        say_json(rows)
        return
    from controller.views.tables import show_pods  # here: who makes a pod, or asks for JSON, need not wait for rich

    show_pods(rows)


async def delete_pods(home: Path, names: Sequence[str], force: bool) -> None:
    _refuse_twice(names)
    lab = Lab(home)
    pods = [lab.pod(name) for name in names]
    for pod in pods:
        if pod.alive and not force:
            await _refuse_while_used(pod)
    for pod in pods:
        await lab.delete(pod.name)
        click.echo(f"{pod.name}: deleted")


async def _refuse_while_used(pod: Pod) -> None:
    try:
        await _refuse_what_would_be_lost(pod)
    except Unreachable as error:
        hint = "wait a moment: its pod starts it anew; or say --force"
        raise Refused(error.code, f"it is not known what pod {pod.name} does: {error}", "pod", hint) from error


async def _refuse_what_would_be_lost(pod: Pod) -> None:
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        running = [each.name for each in await agent.workloads() if each.state != "exited"]
    async with ProxyClient(f"proxy of pod {pod.name}", pod.proxy_socket) as proxy:
        relayed = await proxy.flows()
    if running:
        raise Refused("pod-in-use", f"pod {pod.name} runs {', '.join(running)}", "request", "move it, or say --force")
    if relayed:
        message = f"pod {pod.name} relays {len(relayed)} flows, which would be cut"
        raise Refused("pod-in-use", message, "request", "wait until they have ended, or say --force")


async def show_flows(home: Path, as_json: bool) -> None:
    found = []
    for pod in Lab(home).pods():
        if not pod.alive or not pod.sidecars:
            continue
        async with ProxyClient(f"proxy of pod {pod.name}", pod.proxy_socket) as proxy:
            found += [{"pod": pod.name, **msgspec.to_builtins(view)} for view in await proxy.flows()]
    if as_json:
        say_json(found)
        return
    from controller.views.tables import show_flows_table  # here: as above

    show_flows_table(found)
