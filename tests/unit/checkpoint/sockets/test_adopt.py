"""The adoption protocol, with real sockets and something at the other end that really takes them."""

from __future__ import annotations

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


async def test_every_socket_arrives_in_chunks(tmp_path, listener):
    everything = [given(listener, number) for number in range(adopt.CHUNK + 3)]
    with Adopter(tmp_path / "adopt.sock") as adopter:
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        assert await adoption.adopt(iter(everything), 0) == []
        assert [len(request["sockets"]) for request in adopter.requests] == [adopt.CHUNK, 3]
        assert {sock.getsockname() for sock in adopter.held} == {listener.getsockname()}
        await adoption.release()
        assert adopter.held == []
        adoption.close()


async def test_the_next_chunk_is_made_while_the_proxy_is_at_the_last(tmp_path, listener):
    """And what fails in between leaves no answer behind that the release could take for its own."""
    made = []

    def everything():
        for number in range(2 * adopt.CHUNK):
            made.append(number)
            yield given(listener, number)
        raise AgentError(Code.IMAGE_DAMAGED, "the second chunk was made, and no third")

    with Adopter(tmp_path / "adopt.sock") as adopter:
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError, match="no third"):
            await adoption.adopt(everything(), 0)
        assert len(made) == 2 * adopt.CHUNK
        await adoption.release()
        assert adopter.held == []
        assert [len(request.get("sockets", ())) for request in adopter.requests] == [adopt.CHUNK, adopt.CHUNK, 0]
        adoption.close()


async def test_the_proxys_death_is_noticed_once(tmp_path, listener, wait_until):
    lost = []
    adopter = Adopter(tmp_path / "adopt.sock")
    adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: lost.append(1))
    await adoption.adopt(iter([given(listener)]), 0)
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
            await adoption.adopt(iter([given(listener)]), 0)
        assert caught.value.code is Code.PROXY_REFUSED
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
            await adoption.adopt(iter([given(listener)]), 0)
        assert caught.value.code is code
        adoption.close()
        assert adopter.held == []


async def test_a_proxy_that_does_not_answer_is_not_waited_for(tmp_path, listener, monkeypatch):
    monkeypatch.setattr(adopt, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(Adopter, "_answer", lambda _, connection: bool(connection.recv(1)))
    with Adopter(tmp_path / "adopt.sock"):
        adoption = Adoption(str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError) as caught:
            await adoption.adopt(iter([given(listener)]), 0)
        assert caught.value.code is Code.PROXY_UNREACHABLE
        adoption.close()


def test_nobody_there_is_said(tmp_path):
    with pytest.raises(AgentError) as caught:
        Adoption(str(tmp_path / "nobody.sock"), "m", lambda: None)
    assert caught.value.code is Code.PROXY_UNREACHABLE
