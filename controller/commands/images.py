"""What the commands about images do: checkpoints, copies, and the archive's own affairs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

import checkpoint.api as agent_api
from controller import rates
from controller.archive import DEFAULT, archive_at
from controller.archivist import carry_out
from controller.clients import AgentClient
from controller.commands.output import say_json, warn
from controller.commands.workloads import find_workload
from controller.core.choose import of_checkpoint
from controller.core.errors import Refused
from controller.core.hold import predicted
from controller.core.plan import size_of
from controller.lab.errors import NoSuchPod
from controller.lab.lab import Lab
from controller.lab.pod import Pod
from controller.views.images import show_cloned, show_images, show_stored

SPARE_SECONDS = 60.0
"""What a call to an agent may take beyond the times that it was given."""


class CheckpointRequest(msgspec.Struct, frozen=True):
    workload: str
    pod: str | None
    archive: str
    key: agent_api.KeySource
    ttl_seconds: float
    max_hold_seconds: float
    deadline_seconds: float
    compression: str


class RestoreRequest(msgspec.Struct, frozen=True):
    image: str
    pod: str
    name: str
    copies: int
    archive: str
    key: agent_api.KeySource
    wait_seconds: float
    deadline_seconds: float


async def checkpoint(home: Path, request: CheckpointRequest, *, as_json: bool) -> None:
    """Stores a checkpoint of a workload, which runs on."""
    pod = await find_workload(Lab(home), request.workload, request.pod)
    body = agent_api.StoreCheckpoint(
        workload=request.workload,
        archive=archive_at(request.archive),
        key=request.key,
        addresses=[pod.address, pod.address6],
        ttl_seconds=request.ttl_seconds,
        max_hold_seconds=request.max_hold_seconds,
        deadline_seconds=request.deadline_seconds,
        compression=msgspec.convert(request.compression, agent_api.CompressionMode),
    )
    timeout = request.max_hold_seconds + request.deadline_seconds + SPARE_SECONDS
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        await _look_at_the_hold(home, agent, request)
        stored = await _stored(agent, image_name(request.workload), body, timeout)
    say_json(stored) if as_json else show_stored(stored)


async def _stored(
    agent: AgentClient, image: str, body: agent_api.StoreCheckpoint, timeout_seconds: float
) -> agent_api.StoredCheckpoint:
    try:
        return await agent.checkpoint(image, body, timeout_seconds)
    except asyncio.CancelledError:  # interrupted; what the agent has begun it ends
        click.echo(f"midstream: the agent goes on with it: midstream images list may show {image}", err=True)
        raise


async def _look_at_the_hold(home: Path, agent: AgentClient, request: CheckpointRequest) -> None:
    """Raises Refused where the freeze cannot fit into it, and warns where it may not."""
    known = await asyncio.to_thread(rates.load, home)
    seen = await agent.inspect(request.workload)
    found = predicted(of_checkpoint(size_of(seen), known), request.max_hold_seconds)
    if found is None:
        return None
    if not found.certain:
        return warn(found.problem)
    raise Refused(found.problem.code, found.problem.message, found.problem.fault, found.problem.hint)


def image_name(workload: str) -> str:
    """A name that nobody else gives, and that sorts by time."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{workload[:36]}-{moment}-{secrets.token_hex(4)}"


async def restore(home: Path, request: RestoreRequest, *, as_json: bool) -> None:
    """Starts copies, one a pod, side by side. What has been started stays when another fails.

    Raises:
        MidstreamError: the first thing that went wrong.
    """
    lab = Lab(home)
    first = _up(lab.pod(request.pod))
    there = {pod.name for pod in lab.pods()}
    pods = [first, *[await _pod_like(lab, first, name) for name in pod_names(request)[1:]]]
    found = await asyncio.gather(*(_start(pod, request) for pod in pods), return_exceptions=True)
    for pod, one in zip(pods, found, strict=True):
        if isinstance(one, BaseException) and pod.name not in there:
            await lab.delete(pod.name)
            click.echo(f"{pod.name}: deleted again, for its copy was not started", err=True)
    rows = [(pod, one) for pod, one in zip(pods, found, strict=True) if isinstance(one, agent_api.Cloned)]
    if as_json:
        say_json([{"pod": pod.name, "address": pod.address, **msgspec.to_builtins(one)} for pod, one in rows])
    else:
        show_cloned([(pod.name, pod.address, one) for pod, one in rows])
    for one in found:
        if isinstance(one, BaseException):
            raise one  # it says which pod's agent said it


def pod_names(request: RestoreRequest) -> list[str]:
    """One pod a copy: two copies have the same process ids and ports."""
    return [request.pod, *(f"{request.pod}-{number}" for number in range(2, request.copies + 1))]


async def _pod_like(lab: Lab, first: Pod, name: str) -> Pod:
    """The pod of that name; one like the first is made where there is none."""
    with contextlib.suppress(NoSuchPod):
        return _up(lab.pod(name))
    made = await lab.create(
        name, memory_bytes=first.memory_bytes, cleartext_links=first.cleartext_links, own_root=first.own_root,
        shared=first.shared, image_bytes=first.image_bytes,
    )  # fmt: skip
    click.echo(f"{made.name}: {made.address} {made.address6}", err=True)
    return made


def _up(pod: Pod) -> Pod:
    if not pod.alive:
        raise Refused(
            "pod-down", f"pod {pod.name} is down", "request", f"midstream pod create {pod.name} makes it anew"
        )
    return pod


async def _start(pod: Pod, request: RestoreRequest) -> agent_api.Cloned:
    body = agent_api.StartClone(
        image=request.image,
        workload=request.name,
        archive=archive_at(request.archive),
        key=request.key,
        addresses=[pod.address, pod.address6],
        wait_seconds=request.wait_seconds,
        deadline_seconds=request.deadline_seconds,
    )
    async with AgentClient(f"agent of pod {pod.name}", pod.agent_socket) as agent:
        timeout = request.deadline_seconds + SPARE_SECONDS
        return await agent.clone(f"copy-{secrets.token_hex(4)}", body, timeout)


def _is_not_made_yet(archive: str) -> bool:
    """Of the default one: the first checkpoint makes it. Another that is not there is a mistake."""
    return archive == DEFAULT and not Path(archive).exists()


async def list_images(archive: str, *, as_json: bool) -> None:
    found: list[agent_api.StoredImage] = []
    if not _is_not_made_yet(archive):
        found = await carry_out(agent_api.ListImages(archive_at(archive)), list[agent_api.StoredImage])
    say_json(found) if as_json else show_images(found)


async def show_image(archive: str, key: agent_api.KeySource, image: str) -> None:
    order = agent_api.ShowImage(archive_at(archive), key, image)
    say_json(await carry_out(order, dict[str, Any]))


async def delete_images(archive: str, images: Sequence[str], *, force: bool) -> None:
    for image in images:
        await carry_out(agent_api.DeleteImage(archive_at(archive), image, force), type(None))
        click.echo(f"{image}: deleted")


async def collect_images(archive: str, *, dry_run: bool) -> None:
    gone: list[str] = []
    if not _is_not_made_yet(archive):
        gone = await carry_out(agent_api.CollectImages(archive_at(archive), dry_run), list[str])
    for image in gone:
        click.echo(f"{image}: {'would be deleted' if dry_run else 'deleted'}")
    if not gone:
        click.echo("no image is past its time, and none was left half stored", err=True)


async def make_key(file: Path) -> None:
    made = await carry_out(agent_api.MakeKey(str(await asyncio.to_thread(file.absolute))), str)
    click.echo(f"{file}: key {made}; without it no image that is sealed with it can be read")
