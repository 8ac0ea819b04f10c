"""Moves of real servers between real pods: every byte checked, every connection kept."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import pytest

from controller.core.phases import Phase
from tests.harness.clients import Echo, Stream, pattern_at
from tests.harness.journeys import assert_nothing_lost
from tests.harness.moving import ONE_LOOP, PORT, REDIS_PORT, ask, until

pytestmark = ONE_LOOP


async def test_a_redis_keeps_its_connections_and_its_data(stage):
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "INCR counter") == ":1"
    result = await stage.move("redis")
    assert_nothing_lost(result)
    assert result.flows.adopted == 1
    assert ask(client, "INCR counter") == ":2"
    fresh = stage.connect(stage.client, stage.b.address, REDIS_PORT)
    assert ask(fresh, "INCR counter") == ":3"
    assert [phase.name for phase in result.phases] == [
        phase.value
        for phase in Phase
        if phase.value not in ("PreCopying", "Succeeded", "RollingBack", "RolledBack", "Failed")
    ]
    assert 0 < result.freeze_seconds <= result.hold_seconds < 10
    assert "redis" not in await stage.workloads(stage.a)
    assert (await stage.workloads(stage.b))["redis"].state == "running"
    client.close()
    fresh.close()


async def test_streams_in_both_directions_lose_no_byte(stage):
    await stage.run_server()
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(4)]
    clients += [Stream(stage.client, stage.a.address, PORT) for _ in range(2)]
    clients += [Stream(stage.client, stage.a.address, PORT, pause_seconds=0.004) for _ in range(2)]
    await asyncio.sleep(0.5)
    result = await stage.move("server")
    await asyncio.sleep(0.5)
    for client in clients:
        await asyncio.to_thread(client.finish)
    assert_nothing_lost(result)
    assert result.flows.adopted == 8


async def test_megabytes_unread_and_unsent(stage, tmp_path):
    """One flow whose server does not read, one whose client does not: their queues are full when the tree stops."""
    gate = tmp_path / "open"
    await stage.run_server(str(gate))
    unread = stage.connect(stage.client, stage.a.address, PORT)
    unread.sendall(b"Q")
    sent = await asyncio.to_thread(fill, unread)
    unsent = stage.connect(stage.client, stage.a.address, PORT)
    unsent.sendall(b"S")
    await asyncio.sleep(0.5)
    result = await stage.move("server")
    assert_nothing_lost(result)
    assert max(row.unread_bytes for row in result.ledger) > 1 << 20
    gate.touch()
    unread.settimeout(30)
    unread.shutdown(socket.SHUT_WR)
    assert await asyncio.to_thread(read_all, unread) == b"%d right" % sent
    assert await asyncio.to_thread(read_exactly, unsent, 8 << 20) == pattern_at(0, 8 << 20)
    unread.close()
    unsent.close()


def fill(sock: socket.socket) -> int:
    """Sends the pattern until nothing more is taken for half a second."""
    sock.settimeout(0.5)
    sent = 0
    try:
        while True:
            sent += sock.send(pattern_at(sent, 65536))
    except TimeoutError:
        return sent


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """`count` bytes; fails when the stream ends or stands still before. (MSG_WAITALL ends at a timeout's poll.)"""
    found = bytearray()
    while len(found) < count:
        data = sock.recv(count - len(found))
        assert data, f"ended after {len(found)} bytes"
        found += data
    return bytes(found)


def read_all(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(4096):
        found += data
    return found


async def test_a_connection_opened_to_the_old_address_afterwards_is_served(stage):
    await stage.run_redis()
    await stage.move("redis")
    for _ in range(3):
        late = stage.connect(stage.client, stage.a.address, REDIS_PORT)
        assert ask(late, "PING") == "+PONG"
        local = late.getsockname()
        assert f"addr={local[0]}:{local[1]}" in ask_long(late, "CLIENT LIST")
        late.close()


def ask_long(sock: socket.socket, command: str) -> str:
    """A Redis command whose reply is a bulk string."""
    sock.sendall(command.encode() + b"\r\n")
    head = b""
    while not head.endswith(b"\r\n"):
        head += sock.recv(1)
    return read_exactly(sock, int(head[1:]) + 2).decode()


async def test_connections_opened_during_the_freeze_are_completed_then_and_served_later(stage):
    """They begin between the stop and the restore, seen by the driver's own phases."""
    await stage.run_redis()
    opened: list[socket.socket] = []

    def watch(driver):
        started = driver.observer.phase_started

        def phase_started(name, at):
            started(name, at)
            if name == Phase.RESTORING.value:
                opened.extend(stage.connect(stage.client, stage.a.address, REDIS_PORT, 1) for _ in range(20))
                for sock in opened:
                    sock.sendall(b"PING\r\n")

        driver.observer.phase_started = phase_started

    result = await stage.move("redis", prepare=watch)
    assert_nothing_lost(result)
    assert result.flows.accepted_during_hold == 20
    for sock in opened:
        sock.settimeout(30)
        assert await asyncio.to_thread(sock.recv, 100) == b"+PONG\r\n"
        sock.close()


async def test_the_peer_closes_during_the_hold(stage):
    await stage.run_server()
    leaving = stage.connect(stage.client, stage.a.address, PORT)
    leaving.sendall(b"Ehello")
    assert leaving.recv(5) == b"hello"

    def watch(driver):
        started = driver.observer.phase_started

        def phase_started(name, at):
            started(name, at)
            if name == Phase.RESTORING.value:
                leaving.sendall(b"last words")
                leaving.shutdown(socket.SHUT_WR)

        driver.observer.phase_started = phase_started

    assert_nothing_lost(await stage.move("server", prepare=watch))
    leaving.settimeout(30)
    assert await asyncio.to_thread(read_all, leaving) == b"last words"
    leaving.close()


async def test_ipv6_and_loopback_peers_are_kept(stage):
    await stage.run_redis()
    clients = [
        stage.connect(stage.client, stage.a.address6, REDIS_PORT),
        stage.connect(stage.a, "127.0.0.1", REDIS_PORT),
    ]
    for client in clients:
        assert ask(client, "INCR counter").startswith(":")
    result = await stage.move("redis")
    assert_nothing_lost(result)
    assert result.flows.adopted == 2
    assert [ask(client, "INCR counter") for client in clients] == [":3", ":4"]
    for client in clients:
        client.close()


async def test_nothing_of_the_move_is_left_when_its_flows_have_ended(stage):
    await stage.run_redis()
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "PING") == "+PONG"
    await stage.move("redis")
    assert [view.side for view in await stage.flows(stage.a)] == ["source"]
    assert [view.side for view in await stage.flows(stage.b)] == ["destination"]
    assert not [path for pod in (stage.a, stage.b) for path in Path(pod.images).iterdir() if path.is_dir()]
    client.close()

    async def relayed():
        return await stage.flows(stage.a) + await stage.flows(stage.b)

    for _ in range(600):
        if not await relayed():
            break
        await asyncio.sleep(0.05)
    assert await relayed() == []


async def test_the_demo_itself(tmp_path):
    """The whole of it, as a person runs it, with a smaller load."""
    found = tmp_path / "out.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controller.cli", "demo", "--connections", "16", "--json", str(found),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 110)  # 55 s were seen, beside 20 other busy processes
    assert process.returncode == 0, out.decode()
    result = json.loads(found.read_text())
    assert result["outcome"] == "succeeded"
    assert result["connections"]["lost"] == result["replies_wrong"] == result["resets"] == 0
    assert result["flows"]["adopted"] >= 16
    assert result["stall_seconds"]["max"] > 0
    assert result["connect_during_freeze_seconds"]["max"] < 1
    assert len(result["ledger"]) >= 16


async def test_until_is_honest():
    with pytest.raises(AssertionError, match="never"):
        await until(lambda: False, "never", 0.05)


async def test_two_moves_into_one_pod_at_once_are_both_whole(stage):
    await stage.run_server()
    await stage.run_redis()
    echo = Echo(stage.client, stage.a.address, PORT)
    client = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(client, "INCR counter") == ":1"
    for result in await asyncio.gather(stage.move("server"), stage.move("redis")):
        assert_nothing_lost(result)
    await asyncio.to_thread(echo.finish)
    assert ask(client, "INCR counter") == ":2"
    assert sorted(await stage.workloads(stage.b)) == ["redis", "server"]


async def test_of_two_moves_of_one_workload_at_once_one_is_refused(stage):
    await stage.run_server()
    echo = Echo(stage.client, stage.a.address, PORT)
    first, second = await asyncio.gather(stage.move("server"), stage.move("server"))
    moved, refused = sorted((first, second), key=lambda result: result.outcome, reverse=True)
    assert_nothing_lost(moved)
    assert (refused.outcome, refused.error.code, refused.freeze_seconds) == ("rolled-back", "already-migrating", 0.0)
    await asyncio.to_thread(echo.finish)
