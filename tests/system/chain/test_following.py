"""A workload that has moved once moves again: nothing is lost, and no flow takes a longer way for it."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from controller.lab.namespaces import in_network
from tests.harness import sidecars
from tests.harness.chained import finish, load, move_all, nothing_is_left, one_link_each
from tests.harness.connected import WITNESS_PAUSE_SECONDS
from tests.harness.journeys import start_puppet
from tests.harness.moving import ONE_LOOP, REDIS_PORT, ask, until

pytestmark = ONE_LOOP


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


@pytest.mark.timeout(240)
async def test_three_times_round_and_on_under_load(stage):
    """Ten moves in a row: each flow takes one link at most, and the proxies have no more than a round before;
    in the end, as much as in the beginning."""
    pods = (stage.a, stage.b, stage.c)
    in_the_beginning, rounds = open_descriptors(pods), []
    await stage.run_server()
    clients = load(stage)
    await asyncio.sleep(0.3)
    for step in pairwise([*pods * 3, stage.a, stage.b]):
        await move_all(stage, "server", *step)
        # An old way ends when its slow reader has read what went that way; moves that do not wait pile them up.
        assert await one_link_each(stage) == len(clients)
        await paths_are_told(stage, clients, step[1])
        if step == (stage.a, stage.b):
            rounds.append((open_descriptors(pods), memory_bytes(pods)))
    for (before, had), (after, has) in pairwise(rounds[1:]):  # the first time b had not had anything to do with c
        assert all(new <= old + FEW for new, old in zip(after, before, strict=True)), rounds
        assert all(new < old + SOME_BYTES for new, old in zip(has, had, strict=True)), rounds
    await finish(clients)
    await nothing_is_left(stage)
    await stage.clear()
    await until(lambda: open_descriptors(pods) == in_the_beginning, "the proxies keep descriptors")


FEW, SOME_BYTES = 8, 8 << 20
"""Descriptors of links that end a moment later; and of memory what the allocator keeps. What is left of each flow, each
link and each move would be more: 5 flows, some 40 links, 3 moves a round."""


def open_descriptors(pods):
    return [len(list(Path(f"/proc/{sidecars.running(pod, sidecars.PROXY)}/fd").iterdir())) for pod in pods]


def memory_bytes(pods):
    statuses = [Path(f"/proc/{sidecars.running(pod, sidecars.PROXY)}/status").read_text() for pod in pods]
    return [int(each.split("RssAnon:")[1].split()[0]) << 10 for each in statuses]


async def paths_are_told(stage, clients, now_in):
    """By the command: from a, where all were opened, straight to the pod that the workload is in."""
    status, out, err = await stage.midstream("flows", "-o", "json")
    assert status == 0, err
    told = {(row["side"], row["pod"], row["via"].rpartition(":")[0], tuple(row["peer"])) for row in json.loads(out)}
    addresses = [client.sock.getsockname() for client in clients]
    one_way = [("source", "a", now_in.address), ("destination", now_in.name, stage.a.address)]
    assert told == {(*way, address) for way in one_way for address in addresses}


async def test_the_first_address_still_leads_to_the_workload_after_two_moves(stage):
    await stage.run_redis()
    await move_all(stage, "redis", stage.a, stage.b, stage.c)
    for pod in (stage.a, stage.b):
        late = stage.connect(stage.client, pod.address, REDIS_PORT)
        assert ask(late, "PING") == "+PONG"
    assert await one_link_each(stage) == 2
    assert [view.side for view in await stage.flows(stage.a)] == ["source"]


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


async def test_a_client_and_its_server_are_both_moved(stage):
    """Each is a workload, each streams to the other while either moves: the server, then its client, then back."""
    told = {}
    for name, pod, port in (("client", stage.a, 7201), ("server", stage.b, 7202)):
        told[name] = await start_puppet(stage, name, pod, port)
    told["server"].do("listener = socket.create_server(('', 7310))")
    told["client"].do(f"pump = Duplex(socket.create_connection(({stage.b.address!r}, 7310)), {WITNESS_PAUSE_SECONDS})")
    told["server"].do(f"pump = Duplex(listener.accept()[0], {WITNESS_PAUSE_SECONDS})")
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
    for _ in range(3000):
        if told.do("pump.got") > before:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(told.do("pump.trouble"))


async def test_datagrams_follow_from_pod_to_pod_and_home(stage):
    """To every address that the workload has had, and with the answer from there."""
    told = await start_puppet(stage)
    told.do("udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(('', 7350)); udp.settimeout(30)")
    way = [stage.a, stage.b, stage.c, stage.a]
    for at, step in enumerate(pairwise(way), 2):
        await move_all(stage, "puppet", *step)
        for pod in set_of(way[:at]):
            asker = in_network(stage.client, lambda: socket.socket(type=socket.SOCK_DGRAM))
            with asker:
                asker.settimeout(30)
                asker.sendto(b"where?", (pod.address, 7350))
                said = await asyncio.to_thread(
                    told.do, "(lambda said, at: udp.sendto(said, at) and at[0])(*udp.recvfrom(99))"
                )
                assert said == stage.client.address
                assert await asyncio.to_thread(asker.recvfrom, 99) == (b"where?", (pod.address, 7350))


def set_of(pods):
    return list({pod.name: pod for pod in pods}.values())
