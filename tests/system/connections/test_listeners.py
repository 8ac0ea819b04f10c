"""Listeners of every kind, and who waits in their queues."""

from __future__ import annotations

import asyncio
import socket

import pytest

from controller.core.phases import Phase
from controller.lab.namespaces import in_network
from tests.harness.connected import PORT
from tests.harness.journeys import at_phase, moved
from tests.harness.moving import ONE_LOOP
from tests.harness.programs.puppet import read_all, write_all

pytestmark = [*ONE_LOOP, pytest.mark.usefixtures("under_load")]


async def test_established_but_not_accepted(stage, told):
    told.do(f"server = socket.create_server(('', {PORT}))")
    waiting = [stage.connect(stage.client, stage.a.address, PORT) for _ in range(5)]
    for sock in waiting:
        write_all(sock, 3000)
    result = await moved(stage, "puppet")
    assert result.flows.accepted_during_hold == 5
    for sock in waiting:
        sock.shutdown(socket.SHUT_WR)
        told.do("sock = server.accept()[0]")
        assert told.do("read_all(sock)") == [3000, True]
        told.do("write_all(sock, 10); sock.close()")
        assert read_all(sock) == [10, True]


SERVE = """
def serve(count):
    peers = []
    for _ in range(count):
        sock, peer = server.accept()
        assert read_all(sock) == [3000, True], peer
        write_all(sock, 100_000)
        sock.close()
        peers.append(list(peer))
    return sorted(peers)
"""
MOMENTS = (
    Phase.STOPPING, Phase.CHECKPOINTING, Phase.ADOPTING, Phase.TRANSFERRING, Phase.RESTORING, Phase.COMMITTING,
    Phase.REPOINTING, Phase.DRAINING,
)  # fmt: skip


async def test_who_comes_to_the_old_address_at_any_moment_of_the_move_or_afterwards_is_served(stage, told):
    """Accepted in its turn, whole in both directions, and the workload sees who it is."""
    told.do(f"server = socket.create_server(('', {PORT}), backlog=64)")
    told.do(SERVE)
    came = []

    def come():
        for _ in range(4):
            came.append(stage.connect(stage.client, stage.a.address, PORT, 1))
            came[-1].settimeout(30)
            write_all(came[-1], 3000)
            came[-1].shutdown(socket.SHUT_WR)

    def at_each(driver):
        for moment in MOMENTS:
            at_phase(moment, come)(driver)

    result = await moved(stage, "puppet", at_each)
    assert result.flows.accepted_during_hold >= 4 * 5  # from the stop to the commit
    come()
    assert len(came) == 4 * (len(MOMENTS) + 1)
    serving = asyncio.to_thread(told.do, f"serve({len(came)})")
    assert await serving == sorted(list(sock.getsockname()) for sock in came)
    for sock in came:
        assert await asyncio.to_thread(read_all, sock) == [100_000, True]


async def test_bound_to_the_address_to_every_address_and_to_both_families(stage, told):
    """A listener on the pod's own address follows it; an IPv4 peer of an IPv6 listener stays an IPv4-mapped one."""
    told.do(f"own = socket.create_server(({stage.a.address!r}, {PORT}))")
    told.do(f"any4 = socket.create_server(('0.0.0.0', {PORT + 1}))")
    told.do(f"both = socket.create_server(('::', {PORT + 2}), family=socket.AF_INET6, dualstack_ipv6=True)")
    told.do(f"own6 = socket.create_server(({stage.a.address6!r}, {PORT + 3}), family=socket.AF_INET6)")
    ends = [(stage.a.address, PORT), (stage.a.address, PORT + 1), (stage.a.address, PORT + 2)]
    ends += [(stage.a.address6, PORT + 2), (stage.a.address6, PORT + 3)]
    socks = [stage.connect(stage.client, *end) for end in ends]
    told.do("socks = [one.accept()[0] for one in (own, any4, both, both, own6)]")
    peers = told.do("[one.getpeername()[0] for one in socks]")
    await moved(stage, "puppet")
    assert told.do("[one.getpeername()[0] for one in socks]") == peers
    mapped = f"::ffff:{stage.b.address}"
    expected = [stage.b.address, stage.b.address, mapped, stage.b.address6, stage.b.address6]
    assert told.do("[one.getsockname()[0] for one in socks]") == expected
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number)
        assert told.do(f"socks[{number}].recv(10).decode()") == str(number)
    moved_ends = [(stage.b.address if host == stage.a.address else stage.b.address6, port) for host, port in ends]
    for end, name in zip(moved_ends, ("own", "any4", "both", "both", "own6"), strict=True):
        fresh = stage.connect(stage.client, *end)
        assert told.do(f"{name}.accept()[1][0].replace('::ffff:', '')") == fresh.getsockname()[0]


async def test_a_group_of_listeners_on_one_port(stage, told):
    """SO_REUSEPORT: both go on listening, and connections that waited in either are accepted by one of them."""
    told.do(f"group = [socket.create_server(('', {PORT}), reuse_port=True) for _ in range(2)]")
    waiting = [stage.connect(stage.client, stage.a.address, PORT) for _ in range(12)]
    await moved(stage, "puppet")
    # From ports that the kernel gives to nobody: one of a relayed connection's would be the same connection there.
    more = [stage.connect(stage.client, stage.b.address, PORT, own_port=next(stage.own_ports)) for _ in range(12)]
    waiting += more
    told.do("got = []; [one.setblocking(False) for one in group]")
    for _ in range(500):
        told.do("for one in select.select(group, [], [], 0.1)[0]: got.append(one.accept()[0])")
        if told.do("len(got)") == 24:
            break
    assert told.do("[one.send(b'x') for one in got]") == [1] * 24
    for sock in waiting:
        assert sock.recv(1) == b"x"


async def test_one_port_of_the_peer_to_several_ports_of_the_workload(stage, told):
    told.do(f"servers = [socket.create_server(('', {PORT} + n)) for n in range(3)]")

    def dial() -> list[socket.socket]:
        socks = [socket.socket() for _ in range(3)]
        for number, sock in enumerate(socks):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(30)
            sock.bind((stage.client.address, 17300))
            sock.connect((stage.a.address, PORT + number))
        return socks

    socks = in_network(stage.client, dial)
    told.do("socks = [one.accept()[0] for one in servers]")
    await moved(stage, "puppet")
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number)
        assert told.do(f"socks[{number}].recv(10).decode()") == str(number)
        assert told.do(f"socks[{number}].getpeername()[1]") == 17300
        sock.close()
