"""The adoption protocol, with real sockets and something at the other end that really takes them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.sockets import adopt, adoption, legs
from checkpoint.sockets.adopt import Given
from checkpoint.sockets.adoption import Adoption
from tests.harness.adopter import Adopter


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def given(sock: socket.socket, number: int = 1) -> Given:
    said = adopt.AdoptedSocket(number, "listener", ("127.0.0.1", sock.getsockname()[1]), ("0.0.0.0", 0), "inbound")
    return Given(said, sock)


def flow(sock: socket.socket, number: int) -> Given:
    said = adopt.AdoptedSocket(number, "flow", ("127.0.0.1", 1), ("127.0.0.1", 2), "inbound")
    return Given(said, sock)


async def give(ours: Adoption, *everything: Given) -> list[adopt.Taken]:
    ours.give(everything, 0)
    return await ours.settle()


async def test_every_socket_arrives_and_is_answered_for_in_order(tmp_path, listener):
    with Adopter(tmp_path / "adopt.sock") as adopter, socket.create_connection(listener.getsockname()) as one:
        ours = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        messages = [[flow(one, 1), given(listener, 2)], [given(listener, 3)], [flow(one, 4)]]
        taken = []
        for message in messages:
            if not ours.has_room:
                taken.append(await ours.next())
            ours.give(message, 2)
        taken += await ours.settle()
        assert [some.given for some in taken] == messages
        assert [[leg.flow for leg in legs.ends_of(some.legs)] for some in taken] == [[1], [], [4]]
        assert [len(request["sockets"]) for request in adopter.requests] == [2, 1, 1]
        assert {sock.getsockname() for sock in adopter.held} == {listener.getsockname(), one.getsockname()}
        await ours.release()
        assert adopter.held == []
        ours.close()


async def test_a_proxy_that_stands_still_with_a_full_queue_is_not_waited_for(tmp_path):
    """By nobody: the agent has one thread for all of its leases."""
    path = str(tmp_path / "adopt.sock")
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        deaf.bind(path)
        deaf.listen(1)

        def connect() -> None:
            stack.callback(Adoption(path, "m", lambda: None).close)

        connecting = asyncio.to_thread(lambda: [connect() for _ in range(3)])
        with pytest.raises(AgentError) as error:
            await asyncio.wait_for(connecting, 30)
        assert error.value.code is Code.PROXY_UNREACHABLE


async def test_the_next_message_is_made_while_the_proxy_is_at_the_last(tmp_path, listener, wait_until):
    """And what fails in between leaves no answer behind that the release could take for its own."""
    with Adopter(tmp_path / "adopt.sock") as adopter:
        ours = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        assert list(ours.answered()) == []
        ours.give([given(listener, 1)], 0)
        assert ours.has_room
        ours.give([given(listener, 2)], 0)
        assert not ours.has_room
        heard: list[adopt.Taken] = []
        await wait_until(lambda: heard.extend(ours.answered()) or len(heard) == 1 or ours.has_room)
        assert heard[0].given[0].say.flow == 1
        await ours.release()
        assert adopter.held == []
        assert [len(request.get("sockets", ())) for request in adopter.requests] == [1, 1, 0]
        ours.close()


async def test_the_proxys_death_is_noticed_once(tmp_path, listener, wait_until):
    lost = []
    adopter = Adopter(tmp_path / "adopt.sock")
    ours = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: lost.append(1))
    await give(ours, given(listener))
    ours.watch()
    adopter.die()
    await wait_until(lambda: lost)
    with pytest.raises(AgentError) as caught:
        await ours.release()
    assert caught.value.code is Code.PROXY_UNREACHABLE
    ours.close()
    assert lost == [1]


async def test_a_refusal_is_quoted(tmp_path, listener):
    with Adopter(tmp_path / "adopt.sock", refuse="no"):
        ours = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError, match="the proxy refused: no") as caught:
            await give(ours, given(listener))
        assert caught.value.code is Code.PROXY_REFUSED
        ours.give([given(listener)], 0)
        await ours.drain()  # what is refused when nobody wants it any more
        assert await ours.settle() == []
        ours.close()


async def test_a_refusal_that_nobody_waited_for_is_an_answer_too(tmp_path, listener, wait_until):
    """The release does not wait for it once more."""
    refused: list[AgentError] = []

    def heard() -> None:
        try:
            list(ours.answered())
        except AgentError as error:
            refused.append(error)

    with Adopter(tmp_path / "adopt.sock", refuse="no") as adopter:
        ours = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        ours.give([given(listener)], 0)
        await wait_until(lambda: heard() or refused)
        async with asyncio.timeout(30):
            await ours.release()
        assert [request["op"] for request in adopter.requests] == ["adopt", "release"]
        ours.close()


@pytest.mark.parametrize(("answer", "code"), [(b"{", Code.PROXY_REFUSED), (b"", Code.PROXY_UNREACHABLE)])
async def test_an_answer_that_makes_no_sense_is_no_answer(tmp_path, listener, monkeypatch, answer, code):
    monkeypatch.setattr(
        Adopter, "_answer", lambda _, connection: connection.recv(9) and connection.send(answer) and False
    )
    with Adopter(tmp_path / "adopt.sock") as adopter:
        ours = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        if not answer:
            monkeypatch.setattr(Adopter, "_answer", lambda _, connection: connection.shutdown(socket.SHUT_RDWR))
        with pytest.raises(AgentError) as caught:
            await give(ours, given(listener))
        assert caught.value.code is code
        ours.close()
        assert adopter.held == []


async def test_a_proxy_that_does_not_answer_is_not_waited_for(tmp_path, listener, monkeypatch):
    monkeypatch.setattr(adoption, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(Adopter, "_answer", lambda _, connection: bool(connection.recv(1)))
    with Adopter(tmp_path / "adopt.sock"):
        ours = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError) as caught:
            await give(ours, given(listener))
        assert caught.value.code is Code.PROXY_UNREACHABLE
        ours.close()


def test_nobody_there_is_said(tmp_path):
    with pytest.raises(AgentError) as caught:
        Adoption(str(tmp_path / "nobody.sock"), "m", lambda: None)
    assert caught.value.code is Code.PROXY_UNREACHABLE


async def test_the_way_back_does_not_wait_long_for_a_proxy_that_stands_still(tmp_path, listener, monkeypatch):
    """It will hear of it."""
    monkeypatch.setattr(adoption, "_BACK_SECONDS", 0.05)
    monkeypatch.setattr(adoption, "_ANSWER_SECONDS", 1000.0)
    path = str(tmp_path / "adopt.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as still:
        still.bind(path)
        still.listen()
        ours = Adoption(path, "m", lambda: None)
        for number in (1, 2):
            ours.give([given(listener, number)], 0)
        waiting = asyncio.create_task(ours.next())
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            with pytest.raises(AgentError) as caught:
                await ours.release()
            assert caught.value.code is Code.PROXY_UNREACHABLE
            with pytest.raises(AgentError):
                await waiting
        ours.close()
        with still.accept()[0] as heard:
            ops = [json.loads(heard.recv(1 << 16))["op"] for _ in range(3)]
        assert ops == ["adopt", "adopt", "release"]
