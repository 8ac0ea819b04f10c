"""The flows that earlier moves of a workload have left with other pods' proxies: how many ways they still go, and
having each of them relayed straight to where the workload goes now."""

from __future__ import annotations

from itertools import chain

import proxy.api as proxy_api
from controller.clients import ProxyClient, gather_named
from controller.core.plan import readdress
from controller.core.ways import Pile, pile
from controller.lab.pod import Pod, neighbours
from controller.preflight import facts_of


async def ways(source: Pod, follows: str) -> Pile:
    """Looks once. `follows`: the migration that brought the workload to `source`."""
    pods = await gather_named(**{pod.name: _flows(pod) for pod in neighbours(source)})
    return pile(chain.from_iterable(pods.values()), follows)


async def _flows(pod: Pod) -> list[proxy_api.FlowView]:
    async with ProxyClient(f"proxy of pod {pod.name}", pod.proxy_socket) as proxy:
        return await proxy.flows()


async def shorten(
    source: Pod, destination: Pod, *, follows: str, migration: str, token: str, relink_seconds: float
) -> None:
    """Pod by pod, all at once: what `follows` had brought to `source` goes straight to `destination`.

    Raises MidstreamError, the first one's where several proxies cannot be told.
    """

    async def switch(pod: Pod) -> None:
        body = proxy_api.Switch(
            follows=follows,
            migration=migration,
            token=token,
            destination=proxy_api.Endpoint(destination.address, proxy_api.LINK_PORT),
            readdress=readdress(facts_of(pod), facts_of(destination)),
            relink_seconds=relink_seconds,
        )
        async with ProxyClient(f"proxy of pod {pod.name}", pod.proxy_socket) as proxy:
            await proxy.switch(body)

    await gather_named(**{f"switch the flows of pod {pod.name}": switch(pod) for pod in neighbours(source)})
