"""Multipath TCP: who listens for it, as servers in Go do, goes on by plain TCP; a connection that speaks it cannot."""

from __future__ import annotations

import asyncio
import socket

import pytest

from checkpoint.sockets.inventory import IPPROTO_MPTCP
from controller.lab.namespaces import in_network
from tests.harness.connected import finish, witness
from tests.harness.journeys import cancelled_while_restoring, moved
from tests.harness.moving import ONE_LOOP

PORT = 7399


def has_multipath() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


pytestmark = [*ONE_LOOP, pytest.mark.skipif(not has_multipath(), reason="this kernel has no Multipath TCP")]

LISTEN = """
def listening(family, host, port):
    made = socket.socket(family, socket.SOCK_STREAM, 262)
    made.setsockopt(1, 2, 1), made.setsockopt(1, 9, 1), made.setsockopt(6, 1, 1), made.setsockopt(6, 4, 77)
    made.bind((host, port)), made.listen(50)
    made.setblocking(False)
    return made
many = select.epoll()
def ready():
    return sorted(fd for fd, _ in many.poll(10))
def seen(sock):
    return [sock.getsockopt(*one) for one in ((1, 38), (1, 2), (1, 9), (6, 1), (6, 4))] + [sock.getblocking()]
"""
PLAIN, OURS = [6], [1, 1, 1, 77, False]
"""SO_PROTOCOL, and what else was set."""


async def listens(told, family: socket.AddressFamily = socket.AF_INET, host: str = "") -> None:
    told.do(LISTEN)
    told.do(f"server = listening({int(family)}, {host!r}, {PORT})")
    told.do("many.register(server, 1)")


def answers(stage, told, address: str) -> None:
    """Who connects is told of, accepted, and heard."""
    with stage.connect(stage.client, address, PORT) as sock:
        assert told.do("ready() == [server.fileno()]")
        told.do("one = server.accept()[0]")
        sock.sendall(b"hello")
        assert told.do("one.recv(9).decode()") == "hello"
        told.do("one.close()")


async def test_a_listener_becomes_one_of_plain_tcp_and_nobody_is_lost(stage, told, either_way):
    other = witness(stage, told)
    await listens(told)
    connected = stage.connect(stage.client, stage.a.address, PORT)
    told.do("ready(), globals().__setitem__('sock', server.accept()[0])")
    waiting = stage.connect(stage.client, stage.a.address, PORT)
    result = await moved(stage, "puppet")
    assert result.not_carried == []
    assert told.do("seen(server)") == PLAIN + OURS
    connected.sendall(b"still?")
    assert told.do("sock.recv(9).decode()") == "still?"
    assert told.do("ready() == [server.fileno()]")
    told.do("late = server.accept()[0]")
    waiting.sendall(b"waited")
    assert told.do("late.recv(9).decode()") == "waited"
    for pod in (stage.a, stage.b):
        answers(stage, told, pod.address)
    await finish(told, other)
    connected.close()
    waiting.close()


async def test_a_listener_of_both_families_on_its_own_address(stage, told):
    await listens(told, socket.AF_INET6, stage.a.address6)
    await moved(stage, "puppet")
    assert told.do("seen(server)") == PLAIN + OURS
    assert told.do("server.getsockname()[0]") == stage.b.address6
    for pod in (stage.a, stage.b):
        answers(stage, told, pod.address6)


async def test_taken_back_it_is_as_it_was(stage, told, either_way):
    other = witness(stage, told)
    await listens(told)
    result = await stage.move("puppet", prepare=cancelled_while_restoring)
    assert result.outcome == "rolled-back"
    assert told.do("seen(server)") == [IPPROTO_MPTCP, *OURS]
    answers(stage, told, stage.a.address)
    await finish(told, other)


def speaking(stage) -> socket.socket:
    """A connection of the client's over which both ends speak it."""
    sock = in_network(stage.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP))
    sock.settimeout(10)
    sock.connect((stage.a.address, PORT))
    return sock


async def test_a_connection_is_refused_by_name_or_reset_where_that_is_allowed_and_the_rest_moves(stage, told):
    other = witness(stage, told)
    await listens(told)
    sock = speaking(stage)
    told.do("ready(), globals().__setitem__('sock', server.accept()[0])")
    ends = f"{stage.a.address}:{PORT} to {sock.getsockname()[0]}:{sock.getsockname()[1]}"
    refused = await stage.move("puppet")
    assert (refused.outcome, refused.freeze_seconds, refused.error.code) == ("rolled-back", 0, "unsupported-socket")
    assert f"the connection {ends} is Multipath TCP" in refused.error.message
    assert "--allow-loss" in refused.error.hint
    cancelled = await stage.move("puppet", allow_loss=True, prepare=cancelled_while_restoring)
    assert (cancelled.outcome, cancelled.flows.lost) == ("rolled-back", 0)
    told.do("sock.send(b'still here')")
    assert sock.recv(10, socket.MSG_WAITALL) == b"still here"
    result = await stage.move("puppet", allow_loss=True)
    assert (result.outcome, result.error, result.flows.lost, result.bytes.lost) == ("succeeded", None, 1, 0)
    (row,) = [row for row in result.ledger if not row.offsets_equal]
    assert (row.peer, row.direction) == ("{}:{}".format(*sock.getsockname()), "inbound")
    assert f"the connection {ends} is Multipath TCP" in row.given_up
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(sock.recv, 1)
    assert "Errno" in (await asyncio.to_thread(told.attempt, "sock.recv(1)")).get("error", "no error")
    answers(stage, told, stage.b.address)
    await finish(told, other)
    sock.close()
