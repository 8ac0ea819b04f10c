"""`midstream drain`: what a pod still relays, and waiting until that is nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click

from controller.clients import ProxyClient
from controller.core.errors import EXIT_REFUSED
from controller.lab.lab import Lab

LOOK_SECONDS = 0.2


async def drain(home: Path, pod_name: str, *, wait: bool, say: Callable[[str], object] = click.echo) -> int:
    """Says how many flows the pod's proxy holds or relays, and again whenever that changes; the exit status.

    0 when there is none (left); EXIT_REFUSED when there are some and nobody wants to wait.
    """
    pod = Lab(home).pod(pod_name)
    said = -1
    async with ProxyClient(f"proxy of pod {pod.name}", pod.proxy_socket) as proxy:
        while True:
            flows = await proxy.flows()
            if len(flows) != said:
                said = len(flows)
                say(
                    f"{pod.name}: relays {said} flow{'' if said == 1 else 's'}"
                    if said
                    else f"{pod.name}: relays nothing"
                )
            if not said or not wait:
                return EXIT_REFUSED if said else 0
            await asyncio.sleep(LOOK_SECONDS)
