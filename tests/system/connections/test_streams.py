"""Streams in both directions, whoever opened them: every byte arrives, once, in order."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from tests.harness.connected import ALWAYS, PORT, accepted, finish, listener_of
from tests.harness.journeys import moved
from tests.harness.moving import ONE_LOOP
from tests.harness.programs.puppet import PATTERN, Duplex, fill, read_all

pytestmark = [*ONE_LOOP, pytest.mark.usefixtures("either_way", "under_load")]

TCP, MEGABYTE = socket.IPPROTO_TCP, 1 << 20


@pytest.mark.parametrize("kind", ["IPv4", "IPv6", "IPv4-mapped"])
async def test_both_directions_at_once(stage, told, kind):
    address = stage.a.address6 if kind == "IPv6" else stage.a.address
    client = Duplex(accepted(stage, told, address=address, six=kind != "IPv4"))
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


ROOMY = f"""
server{PORT} = socket.create_server(('', {PORT}))
for option in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
    server{PORT}.setsockopt(socket.SOL_SOCKET, option, {4 * MEGABYTE})
def queued(sock, request): return int.from_bytes(fcntl.ioctl(sock, request, bytes(4)), sys.byteorder)
"""
SIOCINQ, SIOCOUTQ = 0x541B, 0x5411  # linux/sockios.h


@pytest.mark.parametrize("what", ["unread", "unsent", "both"])
async def test_megabytes_behind_closed_windows(stage, told, what):
    """One side does not read, or neither does: what the other has sent has filled both queues."""
    told.do(ROOMY)
    sock = accepted(stage, told)
    unread = fill(sock) if what != "unsent" else 0
    unsent = told.do("fill(sock)") if what != "unread" else 0
    assert bool(unread) == (told.do(f"queued(sock, {SIOCINQ})") > MEGABYTE)
    assert bool(unsent) == (told.do(f"queued(sock, {SIOCOUTQ})") > MEGABYTE)
    result = await moved(stage, "puppet")
    assert bool(unread) == (max(row.unread_bytes for row in result.ledger) > MEGABYTE)
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
    assert result.flows.adopted == ALWAYS + 1
    told.do("sock.send(b'parent')")
    assert sock.recv(6, socket.MSG_WAITALL) == b"parent"
    told.do("sock.close(); ours.send(b'x')")
    assert sock.recv(5, socket.MSG_WAITALL) == b"child"
    told.do("ours.close(); os.waitpid(pid, 0)")
    assert sock.recv(1) == b""
