"""Half-closed, closed or reset, by either end, before the hold, during it and after it."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from controller.core.phases import Phase
from tests.harness.connected import ALWAYS, PORT, accepted, finish, witness
from tests.harness.journeys import at_phase, moved
from tests.harness.moving import ONE_LOOP
from tests.harness.programs.puppet import read_all, write_all

pytestmark = [*ONE_LOOP, pytest.mark.usefixtures("under_load")]


LINGER_NOT = struct.pack("ii", 1, 0)


@pytest.mark.parametrize("read_before", [0, 1000, 5000])
async def test_half_closed_by_the_peer_before_the_hold(stage, told, read_before):
    """With the end of the stream unread, or read already (5000: recv has given the end to the workload)."""
    sock = accepted(stage, told)
    write_all(sock, 2000)
    sock.shutdown(socket.SHUT_WR)
    if read_before:
        assert told.do(f"len(sock.recv({min(read_before, 2000)}, socket.MSG_WAITALL))") == min(read_before, 2000)
    if read_before > 2000:
        assert told.do("sock.recv(1) == b''")
    await moved(stage, "puppet")
    rest = b"".join(iter(lambda: bytes.fromhex(told.do("sock.recv(4096).hex()")), b""))
    assert rest == (bytes(range(251)) * 8)[:2000][read_before:]
    told.do("write_all(sock, 100000); sock.close()")
    assert await asyncio.to_thread(read_all, sock) == [100000, True]


@pytest.mark.parametrize("phase", [Phase.CHECKPOINTING, Phase.ADOPTING, Phase.RESTORING, None])
async def test_half_closed_by_the_peer_during_the_hold_or_after_it(stage, told, phase):
    sock = accepted(stage, told)

    def end():
        write_all(sock, 2000)
        sock.shutdown(socket.SHUT_WR)

    await moved(stage, "puppet", at_phase(phase, end) if phase else lambda driver: None)
    if phase is None:
        end()
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [2000, True]
    told.do("write_all(sock, 100000); sock.close()")
    assert await asyncio.to_thread(read_all, sock) == [100000, True]


@pytest.mark.parametrize("peer_reads_first", [True, False])
async def test_half_closed_by_the_workload_before_the_hold(stage, told, peer_reads_first):
    """FIN_WAIT2 when the peer has acknowledged all, FIN_WAIT1 when it has not: its window is full."""
    sock = accepted(stage, told)
    count = 1000 if peer_reads_first else told.do("fill(sock)")
    told.do(("write_all(sock, 1000); " if peer_reads_first else "") + "sock.shutdown(socket.SHUT_WR)")
    if peer_reads_first:
        assert await asyncio.to_thread(read_all, sock) == [1000, True]
    await moved(stage, "puppet")
    assert "BrokenPipe" in told.attempt("sock.send(b'x')")["error"]
    if not peer_reads_first:
        assert await asyncio.to_thread(read_all, sock) == [count, True]
    write_all(sock, 5000)
    sock.close()
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [5000, True]


@pytest.mark.parametrize("phase", [Phase.CHECKPOINTING, Phase.RESTORING])
async def test_ended_by_both_at_once(stage, told, phase):
    """The workload's end waits behind bytes that the peer's window has no room for; the peer's comes in the hold."""
    sock = accepted(stage, told)
    count = told.do("fill(sock)")
    told.do("sock.shutdown(socket.SHUT_WR)")

    def end():
        write_all(sock, 2000)
        sock.shutdown(socket.SHUT_WR)

    await moved(stage, "puppet", at_phase(phase, end))
    assert await asyncio.to_thread(read_all, sock) == [count, True]
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [2000, True]
    told.do("sock.close()")


@pytest.mark.parametrize("phase", [Phase.CHECKPOINTING, Phase.RESTORING])
async def test_closed_by_the_peer_during_the_hold(stage, told, phase):
    sock = accepted(stage, told)

    def end():
        write_all(sock, 2000)
        sock.close()

    await moved(stage, "puppet", at_phase(phase, end))
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [2000, True]


@pytest.mark.parametrize("phase", [Phase.CHECKPOINTING, Phase.RESTORING, None])
async def test_closed_by_the_workload_with_megabytes_unsent(stage, told, phase):
    """The socket is nobody's any more, and no flow: the kernel of the pod that is left says the rest, and the end."""
    sock = accepted(stage, told)
    count = told.do("fill(sock)")
    told.do("sock.close()")
    heard = []

    def read():
        heard.append(read_all(sock))

    result = await moved(stage, "puppet", at_phase(phase, read) if phase else lambda driver: None)
    if phase is None:
        read()
    assert heard == [[count, True]]
    assert result.flows.adopted == ALWAYS


@pytest.mark.parametrize("phase", [None, Phase.CHECKPOINTING, Phase.ADOPTING, Phase.TRANSFERRING, Phase.RESTORING])
@pytest.mark.parametrize("unread", [0, 3000])
async def test_reset_by_the_peer_before_the_move_or_during_the_hold(stage, told, phase, unread):
    """The workload reads what had come before, then sees the reset, and everything else moves on.

    CHECKPOINTING begins when the workload stands, and before CRIU has looked; None: the reset waits for it already.
    """
    sock, other = accepted(stage, told), witness(stage, told)

    def reset():
        write_all(sock, unread)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        sock.close()

    if phase is None:
        reset()
        told.do("poll = select.poll(); poll.register(sock, 0); poll.poll(30000)")  # until POLLERR
    await moved(stage, "puppet", at_phase(phase, reset) if phase else lambda driver: None)
    if unread:
        assert await asyncio.to_thread(told.do, "len(sock.recv(5000, socket.MSG_WAITALL))") == unread
    assert "ConnectionReset" in (await asyncio.to_thread(told.attempt, "sock.recv(1)")).get("error", "no error")
    told.do("sock.close()")
    await finish(told, other)


async def test_ended_by_both_before_the_move_and_not_closed_by_the_workload(stage, told):
    sock, other = accepted(stage, told), accepted(stage, told, "other")
    write_all(sock, 2000)
    sock.close()
    told.do("write_all(other, 10); other.shutdown(socket.SHUT_WR)")
    assert read_all(other) == [10, True]
    other.close()
    told.do("sock.recv(500, socket.MSG_WAITALL); sock.shutdown(socket.SHUT_WR)")
    told.do("poll = select.poll(); [poll.register(one, select.POLLHUP) for one in (sock, other)]")
    told.do("while len(poll.poll(30000)) < 2: pass")
    await moved(stage, "puppet")
    assert await asyncio.to_thread(told.do, "len(sock.recv(5000, socket.MSG_WAITALL))") == 1500
    assert await asyncio.to_thread(told.do, "[sock.recv(1), other.recv(1)] == [b'', b'']")
    told.do("sock.close(); other.close()")


@pytest.mark.parametrize("six", [False, True])
async def test_the_peer_comes_again_from_the_same_port_to_the_new_address(stage, told, six):
    """After a connection that was moved, and one that was opened to the old address: each had these two ends there.

    Its SYN may come while they are still being forgotten; then its kernel sends another, a second later.
    """
    old, new = [pod.address6 if six else pod.address for pod in (stage.a, stage.b)]
    told.do(f"server = socket.create_server(('::', {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)")
    ports = [next(stage.own_ports) for _ in range(2)]
    before = stage.connect(stage.client, old, PORT, own_port=ports[0])
    told.do("socks = [server.accept()[0]]")
    await moved(stage, "puppet")
    after = stage.connect(stage.client, old, PORT, own_port=ports[1])
    told.do("socks.append(server.accept()[0]); [sock.close() for sock in socks]")
    for sock in (before, after):
        assert sock.recv(1) == b""
        sock.close()
    async with asyncio.timeout(30):
        while any(flow.local.port == PORT for flow in (*await stage.flows(stage.a), *await stage.flows(stage.b))):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for port in ports:
        again = stage.connect(stage.client, new, PORT, own_port=port)
        told.do("server.accept()[0].send(b'served')")
        assert again.recv(10) == b"served"
