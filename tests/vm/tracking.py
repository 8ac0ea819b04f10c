"""`make vm ARGS='pytest tests/vm/tracking.py'`: what only a kernel that tracks what a process writes can show.

Elsewhere `tests.harness.soft_dirty` stands in for it, as CRIU's seccomp listener. A process can have one, and where
connections are made ahead the agent has it (`checkpoint.criu.shade`).
"""

from __future__ import annotations

import asyncio
import socket

import pytest
from msgspec.structs import replace

from controller import pairs
from tests.harness import soft_dirty
from tests.harness.clients import Echo
from tests.harness.moving import PORT, scene
from tests.harness.solo_agent import CRIU


@pytest.fixture
async def stage(monkeypatch):
    assert soft_dirty.tracked(CRIU), "this kernel does not track what is written"
    monkeypatch.setattr(pairs, "FEWEST_PAIRS", 1)
    async with scene() as made:
        await made.run_server()
        yield made


def served(stage) -> socket.socket:
    client = stage.connect(stage.client, stage.a.address, PORT)
    client.sendall(b"E")
    assert asked(client) == b"asked"
    return client


def asked(client: socket.socket) -> bytes:
    client.sendall(b"asked")
    return client.recv(5, socket.MSG_WAITALL)


@pytest.mark.parametrize("in_vain", [False, True])
async def test_connections_that_were_made_ahead_outlast_the_rounds(stage, in_vain):
    """What comes and goes meanwhile is as it would be without; after rounds in vain they are made anew."""
    clients = [served(stage) for _ in range(3)]
    busy = Echo(stage.client, stage.a.address, PORT)

    def prepare(driver):
        def one_round(number, *_):
            if number == 1:
                clients.pop(0).close()
                clients.append(served(stage))
            if in_vain:
                rounds = driver.move.rounds
                rounds.append(replace(rounds.pop(), then="fall-back", reason="in vain"))

        driver.observer.round = one_round

    result = await stage.move("server", memory="pre-copy", prepare=prepare)
    assert (result.outcome, result.memory.way) == ("succeeded", "stop-and-copy" if in_vain else "pre-copy"), (
        result.error
    )
    assert result.flows.made_ahead >= (3 if in_vain else 2)
    for client in clients:
        assert asked(client) == b"asked"
    await asyncio.to_thread(busy.finish)
