"""The four sidecars of a migration, each reached at its own pod's socket."""

from __future__ import annotations

import pytest

from checkpoint.api import Room
from controller.core.errors import Unreachable
from controller.parties import Parties
from tests.harness.stand_ins import stands

FLOWS, ROOM = "GET /v1/flows", "GET /v1/room"


async def test_each_client_reaches_its_own() -> None:
    async with stands("a", "b") as (_, (a, b)):
        for one, number in ((a, 1), (b, 2)):
            one.agent.answers[ROOM], one.proxy.answers[FLOWS] = Room(number, 0, [], []), []
        async with Parties(a.pod, b.pod) as parties:
            rooms = [await each.room() for each in (parties.source_agent, parties.destination_agent)]
            assert [room.memory_bytes for room in rooms] == [1, 2]
            await parties.source_proxy.flows()
            assert (a.proxy.calls, b.proxy.calls) == ([FLOWS], [])
            await parties.destination_proxy.flows()
            assert (a.proxy.calls, b.proxy.calls) == ([FLOWS], [FLOWS])


async def test_one_that_is_gone_is_named_and_the_others_are_let_go() -> None:
    async with stands("a", "b") as (_, (a, b)):
        b.pod.proxy_socket.unlink()
        with pytest.raises(Unreachable, match="proxy of pod b cannot be reached"):
            async with Parties(a.pod, b.pod) as parties:
                await parties.destination_proxy.flows()
        with pytest.raises(RuntimeError, match="closed"):
            await parties.source_agent.room()
