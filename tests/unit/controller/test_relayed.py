"""What earlier moves left with other pods' proxies: asked of each, and told to each."""

from __future__ import annotations

import pytest

from controller import relayed
from controller.core.errors import Unreachable
from proxy.api import Endpoint, FlowView, Switched
from tests.harness.stand_ins import Stand, stands

END = Endpoint("10.0.0.9", 1)
SWITCH, FLOWS = "POST /v1/switch", "GET /v1/flows"


def view(flow: int, side: str, links: int = 1, migration: str = "m") -> FlowView:
    return FlowView(migration, flow, side, END, END, "", "inbound", "relaying", 0, 0, 0, links)  # type: ignore[arg-type]


async def test_the_ways_of_all_pods_are_counted_together() -> None:
    async with stands("a", "b", "c") as (_, (a, b, c)):
        a.proxy.answers[FLOWS] = [view(1, "source", links=4), view(2, "source")]
        b.proxy.answers[FLOWS] = [view(1, "destination"), view(1, "source"), view(3, "destination", migration="other")]
        c.proxy.answers[FLOWS] = [view(2, "destination"), view(3, "source", links=9)]
        found = await relayed.ways(b.pod, "m")
    assert (found.flows, found.ways) == (1, 3)


async def shorten(source: Stand, destination: Stand) -> None:
    await relayed.shorten(source.pod, destination.pod, follows="m", migration="n", token="ab", relink_seconds=5)


async def test_every_pod_is_told_where_to_with_the_addresses_that_are_its_own() -> None:
    async with stands("a", "b", "c") as (_, pods):
        a, b, c = pods
        for one in pods:
            one.proxy.answers[SWITCH] = Switched(1, 0)
        await shorten(b, c)
        for one in pods:
            ((call, said),) = one.proxy.asked
            assert call == SWITCH
            assert (said["follows"], said["migration"], said["token"], said["relink_seconds"]) == ("m", "n", "ab", 5)
            assert said["destination"][0] == c.pod.address
        assert a.proxy.asked[0][1]["readdress"][a.pod.address] == c.pod.address


async def test_a_proxy_that_cannot_be_told_is_named() -> None:
    async with stands("a", "b") as (_, (a, b)):
        b.proxy.answers[SWITCH] = Switched(0, 0)
        a.pod.proxy_socket.unlink()
        with pytest.raises(Unreachable, match="proxy of pod a"):
            await shorten(a, b)
