"""Ends and resets are passed on however many pods there are between."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from tests.harness.chained import move_all, nothing_is_left
from tests.harness.clients import pattern_at
from tests.harness.moving import ONE_LOOP, PORT

pytestmark = ONE_LOOP


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
        client.settimeout(30)
        assert await asyncio.to_thread(read_all, client) == b"first second "
    await nothing_is_left(stage)


async def test_a_half_closed_stream_with_much_to_read_is_moved_on_twice(stage):
    """The peer has ended its stream and still reads the echo, slowly, while the workload moves twice."""
    await stage.run_server()
    client = stage.connect(stage.client, stage.a.address, PORT)
    client.settimeout(30)
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


def read_all(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := sock.recv(65536):
        found += data
    return bytes(found)
