"""What two agents are told before the freeze: how images and files travel, over the agents' real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

import checkpoint.api as agent_api
from controller.clients import AgentClient
from controller.core.choose import Choice
from controller.core.errors import Refused
from controller.core.plan import Plan
from controller.core.transfer import Transfer
from controller.transfer import Agreed, Depot, agree, carry_files, reserve
from tests.harness.stand_ins import Stand, stands

BEACON = agent_api.Beacon("/images/m/beacon", "words")
PREPARED = agent_api.Custody("m", "w", "source", "prepared", memory_port=7, beacon=BEACON)
DEPOT = Depot(agent_api.Archive("/archive"), agent_api.KeySource(file="/key"))
LOOK, RECEIVE, RESERVE, STAGE, TRY = (
    f"POST /v1/inbound/m/{verb}" for verb in ("look", "receive", "reserve", "stage", "try")
)
SEND, STORE, PACK = (f"POST /v1/outbound/m/{verb}" for verb in ("send", "store", "pack"))


class Pair:
    """The two agents, and clients of theirs."""

    def __init__(self, source: Stand, destination: Stand) -> None:
        self.source, self.destination = source.agent, destination.agent
        self.to_source, self.to_destination = (
            AgentClient(one.pod.name, one.pod.agent_socket) for one in (source, destination)
        )
        self.destination.answers[RECEIVE] = agent_api.Receiving(4711, "/there")
        self.source.answers[SEND] = agent_api.Custody("m", "w", "source", "prepared", memory_port=8)

    async def agree(
        self, way: str, depot: Depot | None = None, *, seen: bool = False, straight: bool = False
    ) -> Agreed:
        self.destination.answers[LOOK] = agent_api.Sight(seen)
        wanted = Transfer(way, streams=3, bytes_per_second=5.0)  # type: ignore[arg-type]
        return await agree("m", wanted, self.to_source, self.to_destination, PREPARED, "10.0.0.2", depot, 9.0,
                           straight=straight)  # fmt: skip


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with stands("a", "b") as (_, (a, b)), AsyncExitStack() as stack:
        made = Pair(a, b)
        for client in (made.to_source, made.to_destination):
            await stack.enter_async_context(client)
        yield made


async def test_room_is_taken_for_images_that_are_sent_and_for_no_others(pair: Pair) -> None:
    there = pair.destination.answers[RESERVE] = agent_api.Reserved("coming", 1 << 20, 0.1)
    plan = Plan("w", "a", "b", 1, [], 1, 1, 1 << 30, 0, [], {}, [], memory=Choice("stop-and-copy", 1, 1))
    little = msgspec.structs.replace(plan, memory_bytes=1 << 20)
    assert await reserve("m", pair.to_destination, plan, Agreed("shared")) is None
    assert await reserve("m", pair.to_destination, plan, Agreed("store")) is None
    assert await reserve("m", pair.to_destination, little, Agreed("direct")) is None
    assert pair.destination.asked == []
    assert await reserve("m", pair.to_destination, plan, Agreed("direct")) == there
    ((said, body),) = pair.destination.asked
    assert (said, body["size_bytes"]) == (RESERVE, 1 << 30)


@pytest.mark.parametrize("way", ["auto", "shared"])
async def test_what_the_destination_sees_is_shared_and_nobody_connects(pair: Pair, way: str) -> None:
    assert await pair.agree(way, seen=True) == Agreed("shared", 7)
    assert pair.destination.asked == [(LOOK, {"path": BEACON.path, "words": BEACON.words})]
    assert pair.source.asked == []


@pytest.mark.parametrize(("way", "looks"), [("auto", [LOOK]), ("direct", [])])
async def test_what_it_does_not_see_or_shall_not_look_for_is_sent(pair: Pair, way: str, looks: list[str]) -> None:
    assert await pair.agree(way, straight=True) == Agreed("direct", 8)
    assert pair.destination.calls == [*looks, RECEIVE]
    assert pair.destination.asked[-1][1] == {"host": "10.0.0.2", "files": False, "memory": True}
    order = {"host": "10.0.0.2", "port": 4711, "streams": 3, "bytes_per_second": 5.0, "files": False, "memory": True}
    assert pair.source.asked == [(SEND, order)]


async def test_a_folder_that_has_to_be_shared_and_is_not_is_refused_before_anybody_listens(pair: Pair) -> None:
    with pytest.raises(Refused) as caught:
        await pair.agree("shared")
    assert caught.value.code == "folder-not-shared"
    assert (pair.source.calls, pair.destination.calls) == ([], [LOOK])


async def test_what_is_stored_needs_an_archive_with_a_key_that_both_agents_try_out(pair: Pair) -> None:
    with pytest.raises(Refused) as caught:
        await pair.agree("store")
    assert caught.value.code == "no-key"
    pair.source.answers[STORE] = pair.destination.answers[TRY] = PREPARED
    assert await pair.agree("store", DEPOT) == Agreed("store", 7)
    ((call, said),) = pair.source.asked
    assert (call, said["archive"]["url"], said["key"]["file"], said["deadline_seconds"]) == (
        STORE, "/archive", "/key", 9.0,
    )  # fmt: skip
    ((call, said),) = pair.destination.asked
    assert (call, said["archive"]["url"], said["key"]["file"]) == (TRY, "/archive", "/key")


def packed(folder: str) -> dict[str, Any]:
    return {"folder": folder, "digest": "d", "files": 2, "size_bytes": 3, "stored": None}


async def test_files_are_unpacked_where_they_were_packed_if_that_is_seen(pair: Pair) -> None:
    pair.source.answers[PACK], pair.destination.answers[STAGE] = packed("/here"), PREPARED
    await carry_files("m", pair.to_source, pair.to_destination, None, "10.0.0.2")
    assert pair.destination.asked == [(STAGE, packed("/here"))]


async def test_files_that_are_sent_are_unpacked_where_they_arrived(pair: Pair) -> None:
    pair.source.answers[PACK], pair.destination.answers[STAGE] = packed("/here"), PREPARED
    await carry_files("m", pair.to_source, pair.to_destination, Transfer(), "10.0.0.2")
    assert pair.source.calls == [PACK, SEND]
    assert pair.source.asked[-1][1]["files"] is True
    assert pair.destination.asked[-1] == (STAGE, packed("/there"))


async def test_files_that_are_stored_are_fetched_from_there(pair: Pair) -> None:
    pair.source.answers |= {PACK: packed("/here"), STORE: PREPARED}
    pair.destination.answers[STAGE] = PREPARED
    await carry_files("m", pair.to_source, pair.to_destination, DEPOT, "10.0.0.2")
    assert pair.source.calls == [PACK, STORE]
    assert pair.source.asked[-1][1]["files"] is True
    ((call, said),) = pair.destination.asked
    assert (call, said["digest"], said["stored"]["archive"]["url"]) == (STAGE, "d", "/archive")


async def test_without_files_nobody_is_asked_for_more(pair: Pair) -> None:
    pair.source.answers[PACK] = packed("")
    await carry_files("m", pair.to_source, pair.to_destination, Transfer(), "10.0.0.2")
    assert (pair.source.calls, pair.destination.calls) == ([PACK], [])
