"""Streams in both directions, whoever opened them: every byte arrives, once, in order."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from tests.harness.connected import PORT, accepted, finish, listener_of
from tests.harness.journeys import moved
from tests.harness.moving import ONE_LOOP
from tests.harness.programs.puppet import PATTERN, Duplex, fill, read_all

pytestmark = [*ONE_LOOP, pytest.mark.usefixtures("either_way")]

TCP = socket.IPPROTO_TCP


async def test_both_directions_at_once(stage, told):
    client = Duplex(accepted(stage, told))
    told.do("pump = Duplex(sock)")
    await asyncio.sleep(0.2)  # so that both queues are full of bytes on their way
    await moved(stage, "puppet")
    await finish(told, client)


async def test_bytes_that_keep_coming_while_the_queues_are_read(stage, told):
    """A few at a time, on many connections: CRIU stumbles over such, and is asked again."""
    told.do(f"server = socket.create_server(('', {PORT}), backlog=64)")
    socks = [stage.connect(stage.client, stage.a.address, PORT) for _ in range(24)]
    told.do("socks = [server.accept()[0] for _ in range(24)]")
    sent, over = [0] * len(socks), threading.Event()

    def drip() -> None:
        while not over.is_set():
            for number, sock in enumerate(socks):
                sent[number] += sock.send(PATTERN[sent[number] % 251 :][:10])
            over.wait(0.0005)

    thread = threading.Thread(target=drip, name="drip")
    thread.start()
    try:
        await moved(stage, "puppet")
    finally:
        over.set()
        thread.join()
    for number, sock in enumerate(socks):
        sock.shutdown(socket.SHUT_WR)
        assert told.do(f"read_all(socks[{number}])") == [sent[number], True]


async def test_a_connection_that_the_workload_opened(stage, told):
    with listener_of(stage) as server:
        told.do(f"sock = socket.create_connection(({stage.client.address!r}, {PORT}))")
        client = Duplex(server.accept()[0])
        told.do("pump = Duplex(sock)")
        result = await moved(stage, "puppet")
        assert {row.direction for row in result.ledger} == {"inbound", "outbound"}
        await finish(told, client)


async def test_idle_for_longer_than_either_end_waits_for_a_sign_of_life(stage, told):
    """After the move: keepalive's probes are answered by whoever stands for the other end."""
    sock = accepted(stage, told)
    alive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (TCP, 4, 1), (TCP, 5, 1), (TCP, 6, 2)]
    told.do(f"[sock.setsockopt(*each) for each in {alive!r}]")
    for each in alive:
        sock.setsockopt(*each)
    await moved(stage, "puppet")
    # A second, a probe, a second, another, and a second without an answer; a busy machine is late for one alone.
    await asyncio.sleep(3.3)
    sock.sendall(b"after")
    assert told.do("sock.recv(9).decode()") == "after"
    told.do("sock.send(b'yes')")
    assert sock.recv(9) == b"yes"


async def test_zero_windows_in_each_direction(stage, told):
    """Neither side reads: both send queues are full, both windows closed."""
    sock = accepted(stage, told)
    unread, unsent = fill(sock), told.do("fill(sock)")
    await moved(stage, "puppet")
    sock.shutdown(socket.SHUT_WR)
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [unread, True]
    told.do("sock.shutdown(socket.SHUT_WR)")
    assert await asyncio.to_thread(read_all, sock) == [unsent, True]


async def test_a_connection_shared_by_a_parent_and_its_child(stage, told):
    """One flow, two processes; it ends when both have closed it."""
    sock = accepted(stage, told)
    told.do("ours, theirs = socket.socketpair()")
    told.do(
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    ours.close()\n"
        "    while theirs.recv(1):\n"
        "        sock.send(b'child')\n"
        "    os._exit(0)\n"
    )
    told.do("theirs.close()")
    result = await moved(stage, "puppet")
    assert result.flows.adopted == 2
    told.do("sock.send(b'parent')")
    assert sock.recv(6, socket.MSG_WAITALL) == b"parent"
    told.do("sock.close(); ours.send(b'x')")
    assert sock.recv(5, socket.MSG_WAITALL) == b"child"
    told.do("ours.close(); os.waitpid(pid, 0)")
    assert sock.recv(1) == b""
