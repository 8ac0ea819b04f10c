"""The adoption protocol, with real sockets and something at the other end that really takes them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.sockets import adopt
from checkpoint.sockets.adopt import Adoption, Given
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


async def give(adoption: Adoption, *everything: Given) -> list[adopt.Taken]:
    adoption.give(everything, 0)
    return await adoption.settle()


async def test_every_socket_arrives_and_is_answered_for_in_order(tmp_path, listener):
    with Adopter(tmp_path / "adopt.sock") as adopter, socket.create_connection(listener.getsockname()) as one:
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        messages = [[flow(one, 1), given(listener, 2)], [given(listener, 3)], [flow(one, 4)]]
        taken = []
        for message in messages:
            if not adoption.has_room:
                taken.append(await adoption.next())
            adoption.give(message, 2)
        taken += await adoption.settle()
        assert [some.given for some in taken] == messages
        assert [[leg.flow for leg in adopt.ends_of(some.legs)] for some in taken] == [[1], [], [4]]
        assert [len(request["sockets"]) for request in adopter.requests] == [2, 1, 1]
        assert {sock.getsockname() for sock in adopter.held} == {listener.getsockname(), one.getsockname()}
        await adoption.release()
        assert adopter.held == []
        adoption.close()


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
            await asyncio.wait_for(connecting, 5)
        assert error.value.code is Code.PROXY_UNREACHABLE


async def test_the_next_message_is_made_while_the_proxy_is_at_the_last(tmp_path, listener, wait_until):
    """And what fails in between leaves no answer behind that the release could take for its own."""
    with Adopter(tmp_path / "adopt.sock") as adopter:
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        assert list(adoption.answered()) == []
        adoption.give([given(listener, 1)], 0)
        assert adoption.has_room
        adoption.give([given(listener, 2)], 0)
        assert not adoption.has_room
        heard: list[adopt.Taken] = []
        await wait_until(lambda: heard.extend(adoption.answered()) or len(heard) == 1 or adoption.has_room)
        assert heard[0].given[0].say.flow == 1
        await adoption.release()
        assert adopter.held == []
        assert [len(request.get("sockets", ())) for request in adopter.requests] == [1, 1, 0]
        adoption.close()


async def test_the_proxys_death_is_noticed_once(tmp_path, listener, wait_until):
    lost = []
    adopter = Adopter(tmp_path / "adopt.sock")
    adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: lost.append(1))
    await give(adoption, given(listener))
    adoption.watch()
    adopter.die()
    await wait_until(lambda: lost)
    with pytest.raises(AgentError) as caught:
        await adoption.release()
    assert caught.value.code is Code.PROXY_UNREACHABLE
    adoption.close()
    assert lost == [1]


async def test_a_refusal_is_quoted(tmp_path, listener):
    with Adopter(tmp_path / "adopt.sock", refuse="no"):
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError, match="the proxy refused: no") as caught:
            await give(adoption, given(listener))
        assert caught.value.code is Code.PROXY_REFUSED
        adoption.give([given(listener)], 0)
        await adoption.drain()  # what is refused when nobody wants it any more
        assert await adoption.settle() == []
        adoption.close()


async def test_a_refusal_that_nobody_waited_for_is_an_answer_too(tmp_path, listener, wait_until):
    """The release does not wait for it once more."""
    refused: list[AgentError] = []

    def heard() -> None:
        try:
            list(adoption.answered())
        except AgentError as error:
            refused.append(error)

    with Adopter(tmp_path / "adopt.sock", refuse="no") as adopter:
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        adoption.give([given(listener)], 0)
        await wait_until(lambda: heard() or refused)
        async with asyncio.timeout(5):
            await adoption.release()
        assert [request["op"] for request in adopter.requests] == ["adopt", "release"]
        adoption.close()


@pytest.mark.parametrize(("answer", "code"), [(b"{", Code.PROXY_REFUSED), (b"", Code.PROXY_UNREACHABLE)])
async def test_an_answer_that_makes_no_sense_is_no_answer(tmp_path, listener, monkeypatch, answer, code):
    monkeypatch.setattr(
        Adopter, "_answer", lambda _, connection: connection.recv(9) and connection.send(answer) and False
    )
    with Adopter(tmp_path / "adopt.sock") as adopter:
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        if not answer:
            monkeypatch.setattr(Adopter, "_answer", lambda _, connection: connection.shutdown(socket.SHUT_RDWR))
        with pytest.raises(AgentError) as caught:
            await give(adoption, given(listener))
        assert caught.value.code is code
        adoption.close()
        assert adopter.held == []


async def test_a_proxy_that_does_not_answer_is_not_waited_for(tmp_path, listener, monkeypatch):
    monkeypatch.setattr(adopt, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(Adopter, "_answer", lambda _, connection: bool(connection.recv(1)))
    with Adopter(tmp_path / "adopt.sock"):
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError) as caught:
            await give(adoption, given(listener))
        assert caught.value.code is Code.PROXY_UNREACHABLE
        adoption.close()


def test_nobody_there_is_said(tmp_path):
    with pytest.raises(AgentError) as caught:
        Adoption(str(tmp_path / "nobody.sock"), "m", lambda: None)
    assert caught.value.code is Code.PROXY_UNREACHABLE


async def test_the_way_back_does_not_wait_long_for_a_proxy_that_stands_still(tmp_path, listener, monkeypatch):
    """It will hear of it."""
    monkeypatch.setattr(adopt, "_BACK_SECONDS", 0.05)
    path = str(tmp_path / "adopt.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as still:
        still.bind(path)
        still.listen()
        adoption = Adoption(path, "m", lambda: None)
        for number in (1, 2):
            adoption.give([given(listener, number)], 0)
        waiting = asyncio.create_task(adoption.next())
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            with pytest.raises(AgentError) as caught:
                await adoption.release()
            assert caught.value.code is Code.PROXY_UNREACHABLE
            with pytest.raises(AgentError):
                await waiting
        adoption.close()
        with still.accept()[0] as heard:
            ops = [json.loads(heard.recv(1 << 16))["op"] for _ in range(3)]
        assert ops == ["adopt", "adopt", "release"]
