"""The adoption protocol, with real sockets and something at the other end that really takes them."""

from __future__ import annotations

import os
import socket

import pytest

from checkpoint import adopt
from checkpoint import tree as trees
from checkpoint.adopt import Adoption, Given
from checkpoint.core import flows
from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from tests.harness.adopter import Adopter

KERNEL = Kernel()


@pytest.fixture
def me():
    tree = trees.hold_all(KERNEL, [os.getpid()])
    yield tree
    tree.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def given(sock: socket.socket, number: int = 1, ino: int | None = None) -> Given:
    said = adopt.AdoptedSocket(number, "listener", ("127.0.0.1", sock.getsockname()[1]), ("0.0.0.0", 0), "inbound")
    inode = os.fstat(sock.fileno()).st_ino if ino is None else ino
    return Given(said, flows.Descriptor(os.getpid(), sock.fileno()), inode)


async def test_every_socket_arrives_in_chunks(tmp_path, me, listener):
    everything = [given(listener, number) for number in range(adopt.CHUNK + 3)]
    with Adopter(tmp_path / "adopt.sock") as adopter:
        adoption = Adoption(KERNEL, str(tmp_path / "adopt.sock"), "m", lambda: None)
        assert await adoption.adopt(me, everything) == []
        assert [len(request["sockets"]) for request in adopter.requests] == [adopt.CHUNK, 3]
        assert {sock.getsockname() for sock in adopter.held} == {listener.getsockname()}
        await adoption.release()
        assert adopter.held == []
        adoption.close()


async def test_another_socket_than_the_image_names_is_not_given(tmp_path, me, listener):
    with Adopter(tmp_path / "adopt.sock") as adopter:
        adoption = Adoption(KERNEL, str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError) as caught:
            await adoption.adopt(me, [given(listener), given(listener, ino=1)])
        assert caught.value.code is Code.INTERNAL
        assert adopter.requests == []
        adoption.close()


async def test_the_proxys_death_is_noticed_once(tmp_path, me, listener, wait_until):
    lost = []
    adopter = Adopter(tmp_path / "adopt.sock")
    adoption = Adoption(KERNEL, str(tmp_path / "adopt.sock"), "m", lambda: lost.append(1))
    await adoption.adopt(me, [given(listener)])
    adopter.die()
    await wait_until(lambda: lost)
    with pytest.raises(AgentError) as caught:
        await adoption.release()
    assert caught.value.code is Code.PROXY_UNREACHABLE
    adoption.close()
    assert lost == [1]


async def test_a_refusal_is_quoted(tmp_path, me, listener):
    with Adopter(tmp_path / "adopt.sock", refuse="no"):
        adoption = Adoption(KERNEL, str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError, match="the proxy refused: no") as caught:
            await adoption.adopt(me, [given(listener)])
        assert caught.value.code is Code.PROXY_REFUSED
        adoption.close()


@pytest.mark.parametrize(("answer", "code"), [(b"{", Code.PROXY_REFUSED), (b"", Code.PROXY_UNREACHABLE)])
async def test_an_answer_that_makes_no_sense_is_no_answer(tmp_path, me, listener, monkeypatch, answer, code):
    monkeypatch.setattr(
        Adopter, "_answer", lambda _, connection: connection.recv(9) and connection.send(answer) and False
    )
    with Adopter(tmp_path / "adopt.sock") as adopter:
        adoption = Adoption(KERNEL, str(tmp_path / "adopt.sock"), "m", lambda: None)
        if not answer:
            monkeypatch.setattr(Adopter, "_answer", lambda _, connection: connection.shutdown(socket.SHUT_RDWR))
        with pytest.raises(AgentError) as caught:
            await adoption.adopt(me, [given(listener)])
        assert caught.value.code is code
        adoption.close()
        assert adopter.held == []


async def test_a_proxy_that_does_not_answer_is_not_waited_for(tmp_path, me, listener, monkeypatch):
    monkeypatch.setattr(adopt, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(Adopter, "_answer", lambda _, connection: bool(connection.recv(1)))
    with Adopter(tmp_path / "adopt.sock"):
        adoption = Adoption(KERNEL, str(tmp_path / "adopt.sock"), "m", lambda: None)
        with pytest.raises(AgentError) as caught:
            await adoption.adopt(me, [given(listener)])
        assert caught.value.code is Code.PROXY_UNREACHABLE
        adoption.close()


def test_nobody_there_is_said(tmp_path):
    with pytest.raises(AgentError) as caught:
        Adoption(KERNEL, str(tmp_path / "nobody.sock"), "m", lambda: None)
    assert caught.value.code is Code.PROXY_UNREACHABLE
