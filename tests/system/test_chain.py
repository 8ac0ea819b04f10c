"""A workload that has moved once moves again, and home: nothing is lost, and no flow takes a longer way for it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from itertools import cycle, pairwise

import pytest
import pytest_asyncio

from controller import journal
from controller.commands.moves import migrations_folder, resume
from controller.lab.namespaces import in_network
from tests.harness.clients import Echo, Stream, pattern_at
from tests.harness.journeys import PROGRAMS, PYTHON, Lines, Puppet, assert_nothing_lost
from tests.harness.moving import ONE_LOOP, PORT, REDIS_PORT, ask, scene, spoilt

pytestmark = ONE_LOOP


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing():
    async with scene() as made:
        made.c = await made.lab.create("c")
        yield made


async def move_all(stage, workload, *pods):
    """From pod to pod; every move must succeed and lose nothing."""
    for source, destination in pairwise(pods):
        result = await stage.move(workload, source, destination)
        assert_nothing_lost(result)
        assert result.error is None


async def flows_of(stage):
    return [view for pod in (stage.a, stage.b, stage.c) for view in await stage.flows(pod)]


async def one_link_each(stage, seconds=30.0):
    """Until every flow has one peer leg and one app leg, and so one link; fails after `seconds`.

    The longer way lasts as long as a slow reader still has bytes before it that went that way.
    """
    for _ in range(int(seconds / 0.05)):
        found = Counter((view.flow, view.side) for view in await flows_of(stage))
        if all(count == 1 for count in found.values()):
            return len(found) // 2
        await asyncio.sleep(0.05)
    raise AssertionError(f"longer ways: {[each for each, count in found.items() if count > 1]}")


def load(stage):
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(3)]
    return [*clients, *(Stream(stage.client, stage.a.address, PORT, pause_seconds=each) for each in (0, 0.002))]


async def finish(clients):
    for client in clients:
        await asyncio.to_thread(client.finish)


async def test_a_connection_follows_from_pod_to_pod(stage):
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "INCR counter") == ":1"
    await move_all(stage, "redis", stage.a, stage.b, stage.c)
    assert ask(client, "INCR counter") == ":2"
    assert await one_link_each(stage) == 1
    assert ask(client, "INCR counter") == ":3"
    assert await stage.flows(stage.b) == []


@pytest.mark.parametrize("last", ["c", "a"])
async def test_streams_follow_from_pod_to_pod_and_home(stage, last):
    await stage.run_server()
    clients = load(stage)
    await asyncio.sleep(0.3)
    await move_all(stage, "server", stage.a, stage.b, getattr(stage, last))
    assert await one_link_each(stage) == len(clients)
    await finish(clients)


async def test_ten_moves_under_load(stage):
    await stage.run_server()
    clients = load(stage)
    await asyncio.sleep(0.3)
    way = [pod for pod, _ in zip(cycle([stage.a, stage.b, stage.c]), range(11), strict=False)]
    for step in pairwise(way):
        await move_all(stage, "server", *step)
        # An old way ends when its slow reader has read what went that way; moves that do not wait pile them up.
        assert await one_link_each(stage) == len(clients)
    await finish(clients)


async def test_home_again_the_workload_is_reached_directly(stage):
    """Its port was kept by a listener of the proxy's, which made room for it."""
    await stage.run_redis()
    await move_all(stage, "redis", stage.a, stage.b, stage.a)
    for host in (stage.a.address, stage.a.address6):
        client = stage.connect(stage.client, host, REDIS_PORT)
        assert ask(client, "PING") == "+PONG"
    assert await stage.flows(stage.a) == []
    late = stage.connect(stage.client, stage.b.address, REDIS_PORT)
    assert ask(late, "PING") == "+PONG"
    assert await one_link_each(stage) == 1


async def test_connections_opened_while_it_comes_home_are_all_served(stage):
    """Each from a port of its own: the kernel gives the same one for two destinations now and then (3 % of such runs),
    and what would be one connection to the workload cannot be two. It listens at its own address alone: who dials that
    at home cannot be relayed to it, and waits in the kernel instead."""
    await stage.run_redis("--bind", stage.a.address)
    await move_all(stage, "redis", stage.a, stage.b)
    opened = []

    def dial(pod):
        own = (stage.client.address, 20000 + len(opened))
        opened.append(socket.create_connection((pod.address, REDIS_PORT), 10, own))

    def watch(driver):
        started = driver.observer.phase_started

        def phase_started(name, at):
            started(name, at)
            if name in ("Restoring", "Committing", "Repointing", "Draining"):
                for pod in (stage.a, stage.b):
                    for _ in range(10):
                        in_network(stage.client, lambda pod=pod: dial(pod))

        driver.observer.phase_started = phase_started

    result = await stage.move("redis", stage.b, stage.a, prepare=watch)
    assert result.outcome == "succeeded", result.error
    assert result.flows.lost == result.bytes.lost == 0
    assert len(opened) == 80
    for client in opened:
        assert await asyncio.to_thread(ask, client, "PING") == "+PONG"
        client.close()
    await nothing_is_left(stage)


async def test_who_was_not_accepted_before_the_way_home_and_cannot_be_relayed_is_named(stage):
    """The workload listens at one address alone, which the connection's other end at home has already."""
    await stage.run("puppet", *PYTHON, str(PROGRAMS / "puppet.py"), str(Puppet.PORT))
    await stage.answers(Puppet.PORT)
    told = Puppet(Lines(stage.connect(stage.client, stage.a.address, Puppet.PORT)))
    told.do(f"server = socket.create_server(({stage.a.address!r}, 7350))")
    await move_all(stage, "puppet", stage.a, stage.b)
    relayed, native = (stage.connect(stage.client, pod.address, 7350) for pod in (stage.a, stage.b))
    await until_seen(stage, relayed)
    result = await stage.move("puppet", stage.b, stage.a)
    assert (result.outcome, result.flows.lost) == ("succeeded", 1)
    assert "{}:{} (refused: ".format(*relayed.getsockname()) in result.error.message
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(relayed.recv, 1)
    native.sendall(b"here")
    assert await asyncio.to_thread(told.do, "server.accept()[0].recv(4).decode()") == "here"


async def until_seen(stage, sock):
    """Until the kernel of the pod that the workload is in has the connection, which nobody has accepted."""
    port = sock.getsockname()[1]
    for _ in range(1000):
        if any(view.peer.port == port and view.state == "relaying" for view in await stage.flows(stage.b)):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not relayed")


async def test_the_first_address_still_leads_to_the_workload_after_two_moves(stage):
    await stage.run_redis()
    await move_all(stage, "redis", stage.a, stage.b, stage.c)
    for pod in (stage.a, stage.b):
        late = stage.connect(stage.client, pod.address, REDIS_PORT)
        assert ask(late, "PING") == "+PONG"
    assert await one_link_each(stage) == 2
    assert [view.side for view in await stage.flows(stage.a)] == ["source"]


@pytest.mark.parametrize("home", [False, True])
async def test_a_second_move_that_is_rolled_back_leaves_the_relayed_flows_as_they_were(stage, home):
    await stage.run_server()
    clients = load(stage)
    await asyncio.sleep(0.3)
    await move_all(stage, "server", stage.a, stage.b)
    destination = stage.a if home else stage.c

    def cancel(driver):
        started = driver.observer.phase_started

        def phase_started(name, at):
            started(name, at)
            if name == "Restoring":
                driver.cancel()

        driver.observer.phase_started = phase_started

    result = await stage.move("server", stage.b, destination, prepare=cancel)
    assert result.outcome == "rolled-back"
    assert await one_link_each(stage) == len(clients)
    late = Echo(stage.client, stage.a.address, PORT)
    await asyncio.sleep(0.2)
    await move_all(stage, "server", stage.b, destination)
    assert await one_link_each(stage) == len(clients) + 1
    await finish([*clients, late])


@pytest.mark.parametrize("way", ["abc", "aba", "abcab"])
async def test_a_half_close_is_passed_on_wherever_the_workload_is(stage, way):
    """One peer has ended its stream before the last move, one ends it afterwards; a gate keeps the answer back."""
    pods = [getattr(stage, name) for name in way]
    await stage.run_server()
    before, after = (stage.connect(stage.client, stage.a.address, PORT) for _ in range(2))
    for client in (before, after):
        client.sendall(b"Efirst ")
    await move_all(stage, "server", *pods[:-1])
    before.sendall(b"second ")
    before.shutdown(socket.SHUT_WR)
    await move_all(stage, "server", *pods[-2:])
    after.sendall(b"second ")
    after.shutdown(socket.SHUT_WR)
    for client in (before, after):
        client.settimeout(10)
        assert await asyncio.to_thread(read_all, client) == b"first second "
    await nothing_is_left(stage)


async def test_a_half_closed_stream_with_much_to_read_is_moved_on_twice(stage):
    """The peer has ended its stream and still reads the echo, slowly, while the workload moves twice."""
    await stage.run_server()
    client = stage.connect(stage.client, stage.a.address, PORT)
    client.settimeout(20)
    await move_all(stage, "server", stage.a, stage.b)
    size = 3 << 20
    sending = asyncio.to_thread(client.sendall, b"E" + pattern_at(0, size))
    await sending
    client.shutdown(socket.SHUT_WR)
    await move_all(stage, "server", stage.b, stage.c, stage.a)
    assert await asyncio.to_thread(read_all, client) == pattern_at(0, size)
    await nothing_is_left(stage)


async def test_a_reset_is_passed_on_after_two_moves(stage):
    await stage.run_server()
    client = stage.connect(stage.client, stage.a.address, PORT)
    client.sendall(b"Ehello")
    assert client.recv(5) == b"hello"
    await move_all(stage, "server", stage.a, stage.b, stage.c)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    await nothing_is_left(stage)


async def test_ipv6_and_loopback_peers_follow_away_and_home(stage):
    await stage.run_redis()
    clients = [
        stage.connect(stage.client, stage.a.address6, REDIS_PORT),
        stage.connect(stage.a, "127.0.0.1", REDIS_PORT),
    ]
    for step in ("abc", "ca"):
        await move_all(stage, "redis", *(getattr(stage, name) for name in step))
        for client in clients:
            assert ask(client, "INCR counter").startswith(":")
    assert await one_link_each(stage) == 2


async def test_drain_waits_until_a_pod_relays_nothing(stage):
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert await stage.midstream("drain", "a") == (0, "a: relays nothing\n", "")
    await move_all(stage, "redis", stage.a, stage.b)
    assert await stage.midstream("drain", "a") == (1, "a: relays 1 flow\n", "")
    status, _, words = await stage.midstream("pod", "delete", "a")
    assert (status, "pod a relays 1 flow" in words) == (1, True), words
    assert ask(client, "PING") == "+PONG"
    waiting = await stage.start_midstream("drain", "a", "--wait")
    assert await waiting.stdout.readline() == b"a: relays 1 flow\n"
    client.close()
    out, _ = await asyncio.wait_for(waiting.communicate(), 20)
    assert (waiting.returncode, out) == (0, b"a: relays nothing\n")


async def test_a_pod_that_relays_is_deleted_where_that_is_forced(own_stage):
    await own_stage.run_redis()
    client = own_stage.connect(own_stage.client, own_stage.a.address, REDIS_PORT)
    await move_all(own_stage, "redis", own_stage.a, own_stage.b)
    assert ask(client, "PING") == "+PONG"
    assert (await own_stage.midstream("pod", "delete", "a", "--force"))[0] == 0
    native = own_stage.connect(own_stage.client, own_stage.b.address, REDIS_PORT)
    assert ask(native, "PING") == "+PONG"


async def test_a_client_and_its_server_are_both_moved(stage):
    """Each is a workload, each streams to the other while either moves: the server, then its client, then back."""
    told = {}
    for name, pod, port in (("client", stage.a, 7201), ("server", stage.b, 7202)):
        await stage.run(name, *PYTHON, str(PROGRAMS / "puppet.py"), str(port), pod=pod)
        await stage.answers(port, pod)
        told[name] = Puppet(Lines(stage.connect(stage.client, pod.address, port)))
    told["server"].do("listener = socket.create_server(('', 7310))")
    told["client"].do(f"pump = Duplex(socket.create_connection(({stage.b.address!r}, 7310)))")
    told["server"].do("pump = Duplex(listener.accept()[0])")
    for name, *way in (("server", stage.b, stage.c), ("client", stage.a, stage.b), ("server", stage.c, stage.a)):
        before = told["client"].do("pump.got")
        await move_all(stage, name, *way)
        await grows(told["client"], before)
    for each in told.values():
        await asyncio.to_thread(each.do, "pump.end()")
    ours, theirs = [await asyncio.to_thread(each.do, "pump.counts()") for each in told.values()]
    assert ours[2] == theirs[2] == ""
    assert (ours[0], ours[1]) == (theirs[1], theirs[0])


async def grows(told, before):
    """Until bytes have come."""
    for _ in range(1000):
        if told.do("pump.got") > before:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(told.do("pump.trouble"))


async def nothing_is_left(stage):
    """No flow in any pod, and no address but its own, once the last acknowledgements had their time."""
    for _ in range(200):
        if not await flows_of(stage):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await flows_of(stage))


def read_all(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := sock.recv(65536):
        found += data
    return bytes(found)


async def something_came_by(stage, pod):
    """Until the workload in `pod` has written something to the one flow it has: with nothing in it no way lasts."""
    for _ in range(1000):
        if any(view.side == "destination" and view.to_peer_bytes for view in await stage.flows(pod)):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"nothing was written from {pod.name}")


async def test_a_move_waits_while_earlier_ones_have_left_too_much_before_a_reader(stage):
    """Nothing reads: each move leaves a way behind. The next but one waits, says so, and goes on when that is read."""
    await stage.run_server()
    reader = Stream(stage.client, stage.a.address, PORT, reads=False)
    try:
        observers = []

        def watch(driver):
            observers.append(driver.observer)
            said = driver.observer.waiting

            def waiting(why):
                said(why)
                reader.read_on()

            driver.observer.waiting = waiting

        for source, destination in pairwise((stage.a, stage.b, stage.c) * 3):
            result = await stage.move("server", source, destination, prepare=watch)
            assert result.outcome == "succeeded", result.error
            if waits := observers[-1].waits:
                break
            await something_came_by(stage, destination)
        assert len(observers) > 2
        assert waits
        assert all("ways of earlier moves" in why for why in waits)
    finally:
        await asyncio.to_thread(reader.finish)


async def test_a_controller_that_takes_over_shortens_the_ways(stage):
    """The one before ended in Draining, and its token with it."""
    await stage.run_server()
    clients = load(stage)
    await move_all(stage, "server", stage.a, stage.b)
    move = stage.move("server", stage.b, stage.c)
    async with spoilt(move, stage.b.proxy_socket, "/ledger", method="GET") as (moving, _):
        moving.cancel()
        await asyncio.wait([moving])
    records = journal.read_all(migrations_folder(stage.lab.home))
    (migration,) = [each.intent.migration for each in records if each.interrupted]
    assert await resume(stage.lab.home, migration, as_json=True) == 0
    assert await one_link_each(stage) == len(clients)
    assert await stage.flows(stage.b) == []
    late = Echo(stage.client, stage.a.address, PORT)
    await finish([*clients, late])


async def test_datagrams_follow_from_pod_to_pod_and_home(stage):
    """To every address that the workload has had, and with the answer from there."""
    await stage.run("puppet", *PYTHON, str(PROGRAMS / "puppet.py"), str(Puppet.PORT))
    await stage.answers(Puppet.PORT)
    told = Puppet(Lines(stage.connect(stage.client, stage.a.address, Puppet.PORT)))
    told.do("udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(('', 7350)); udp.settimeout(10)")
    way = [stage.a, stage.b, stage.c, stage.a]
    for at, step in enumerate(pairwise(way), 2):
        await move_all(stage, "puppet", *step)
        for pod in set_of(way[:at]):
            asker = in_network(stage.client, lambda: socket.socket(type=socket.SOCK_DGRAM))
            with asker:
                asker.settimeout(10)
                asker.sendto(b"where?", (pod.address, 7350))
                said = await asyncio.to_thread(
                    told.do, "(lambda said, at: udp.sendto(said, at) and at[0])(*udp.recvfrom(99))"
                )
                assert said == stage.client.address
                assert await asyncio.to_thread(asker.recvfrom, 99) == (b"where?", (pod.address, 7350))


def set_of(pods):
    return list({pod.name: pod for pod in pods}.values())
