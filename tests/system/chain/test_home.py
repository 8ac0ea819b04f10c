"""A workload that comes home is reached directly there, and whoever came meanwhile is served or named."""

from __future__ import annotations

import asyncio
import socket

import pytest

from controller.lab.namespaces import in_network
from tests.harness.chained import move_all, nothing_is_left, one_link_each
from tests.harness.connected import PORT, accepted
from tests.harness.journeys import start_puppet
from tests.harness.moving import ONE_LOOP, REDIS_PORT, ask

pytestmark = ONE_LOOP

NOBODY = 65534


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


async def test_sockets_of_another_user_than_root_come_home_and_stay_that_user_s(stage):
    """Two of one port may be open beside each other only if they are one user's (K: inet_csk_get_port)."""
    told = await start_puppet(stage)
    told.do(f"import os; os.setgid({NOBODY}); os.setuid({NOBODY})")
    sock = accepted(stage, told)
    owners = f"[os.fstat(one.fileno())[4:6] for one in (server{PORT}, sock)]"
    assert told.do(owners) == [[NOBODY, NOBODY]] * 2
    await move_all(stage, "puppet", stage.a, stage.b, stage.a, stage.b, stage.a)
    assert told.do(owners) == [[NOBODY, NOBODY]] * 2
    told.do("sock.send(b'still here')")
    assert sock.recv(100) == b"still here"
    late = stage.connect(stage.client, stage.a.address, PORT)
    assert told.do(f"server{PORT}.accept()[1][1]") == late.getsockname()[1]


async def test_connections_opened_while_it_comes_home_are_all_served(stage):
    """Each from a port of its own: the kernel gives the same one for two destinations now and then (3 % of such runs),
    and what would be one connection to the workload cannot be two. It listens at its own address alone: who dials that
    at home cannot be relayed to it, and waits in the kernel instead."""
    await stage.run_redis("--bind", stage.a.address)
    await move_all(stage, "redis", stage.a, stage.b)
    opened = []

    def dial(pod):
        own = (stage.client.address, next(stage.own_ports))
        opened.append(socket.create_connection((pod.address, REDIS_PORT), 30, own))

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
    told = await start_puppet(stage)
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
    for _ in range(3000):
        if any(view.peer.port == port and view.state == "relaying" for view in await stage.flows(stage.b)):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not relayed")
