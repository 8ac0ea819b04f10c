"""The messages to the proxy; what is in them is `test_adopting.py`'s."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest

from checkpoint.core.errors import AgentError
from checkpoint.moves.handover import Handover
from checkpoint.sockets import adoption
from checkpoint.sockets.adopt import AdoptedSocket, Given, Taken
from tests.harness.adopter import Adopter


class Scene:
    def __init__(self, path: str) -> None:
        self.taken: list[Taken] = []
        self.lost: list[bool] = []
        self.handover = Handover(path, "m", lambda: self.lost.append(True), self.taken.append)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.socks = socket.create_connection(server.getsockname()), server.accept()[0]

    def given(self, number: int) -> list[Given]:
        said = AdoptedSocket(number, "flow", ("127.0.0.1", 1), ("127.0.0.1", 2), "inbound")
        return [Given(said, self.socks[0])]

    def flows(self) -> list[int]:
        """Of the legs that nobody was told yet."""
        return [leg[0] for leg in msgspec.json.decode(self.handover.take_legs()[0])]

    def close(self) -> None:
        self.handover.close()
        for sock in self.socks:
            sock.close()


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "adopt.sock")


@pytest.fixture
def adopter(tmp_path) -> Iterator[Adopter]:
    with Adopter(tmp_path / "adopt.sock") as made:
        yield made


@pytest.fixture
async def scene(path, adopter) -> Iterator[Scene]:
    made = Scene(path)
    yield made
    made.close()


async def test_where_nothing_is_given_nobody_is_asked(scene, adopter):
    await scene.handover.settle()
    await scene.handover.begin_again()
    scene.handover.hear()
    scene.handover.hurry()
    await scene.handover.release()
    assert scene.flows() == adopter.requests == []


async def test_each_message_waits_for_room_and_each_leg_is_told_once(scene, adopter):
    for number in range(1, 6):
        await scene.handover.room()
        scene.handover.give(scene.given(number), 5)
    assert not scene.handover.has_room
    assert len(scene.taken) == 5 - adoption.AHEAD
    assert scene.flows() == [1, 2, 3]
    await scene.handover.settle()
    assert (scene.flows(), scene.flows()) == ([4, 5], [])
    await scene.handover.release()
    assert adopter.held == []


async def test_while_nobody_waits_it_is_heard_that_there_is_room(scene, wait_until):
    scene.handover.listen(scene.handover.hear)
    for number in range(1, 1 + adoption.AHEAD):
        scene.handover.give(scene.given(number), 2)
    await wait_until(lambda: len(scene.taken) == adoption.AHEAD)
    assert scene.handover.has_room
    scene.handover.deafen()


async def test_what_was_said_of_a_dump_in_vain_is_told_nobody(scene):
    scene.handover.give(scene.given(1), 1)
    await scene.handover.begin_again()
    assert scene.flows() == []


async def test_a_proxy_that_dies_is_noticed_and_has_let_go(scene, adopter, wait_until):
    scene.handover.give(scene.given(1), 1)
    await scene.handover.settle()
    adopter.die()
    await wait_until(lambda: scene.lost)
    await scene.handover.release()
    with pytest.raises(AgentError):
        scene.handover.give(scene.given(2), 1)
