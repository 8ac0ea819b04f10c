"""The load's two pipes. (What it does between them: tests/system/test_load_alone.py.)"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from controller.demo import load
from controller.demo.load import Control
from controller.demo.report import DECODER, Failed, Tick

TICK = Tick(1.0, 2, 0, 5, 0, 0.1, 3, 0, 9)


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Our ends of pipes that stand for the load's stdin and stdout."""
    stdin, ours_in = os.pipe()
    ours_out, stdout = os.pipe()
    monkeypatch.setattr(load, "STDIN", stdin)
    monkeypatch.setattr(load, "STDOUT", stdout)
    yield ours_in, ours_out
    for descriptor in (stdin, stdout, ours_out):
        os.close(descriptor)


async def test_stop_may_come_in_pieces_and_an_end_after_it_is_no_orphan(pipes: tuple[int, int]) -> None:
    orphaned: list[bool] = []
    control = Control(lambda: orphaned.append(True))
    control.listen()
    for piece in (b"st", b"op\n"):
        os.write(pipes[0], piece)
        await asyncio.sleep(0.01)
    await asyncio.wait_for(control.stop.wait(), 30)
    os.close(pipes[0])
    await asyncio.sleep(0.01)
    control.close()
    assert orphaned == []


async def test_an_end_before_it_is_an_orphan(pipes: tuple[int, int]) -> None:
    orphaned = asyncio.Event()
    control = Control(orphaned.set)
    control.listen()
    os.close(pipes[0])
    await asyncio.wait_for(orphaned.wait(), 30)
    assert not control.stop.is_set()


async def test_ticks_do_not_wait_for_a_slow_reader(pipes: tuple[int, int]) -> None:
    control = Control(lambda: None)
    for _ in range(2000):  # far more than a pipe holds
        control.mention(TICK)
    lines = os.read(pipes[1], 1 << 20).splitlines()
    assert 100 < len(lines) < 2000
    assert all(DECODER.decode(line) == TICK for line in lines)
    control.say(Failed("now there is room"))
    assert DECODER.decode(os.read(pipes[1], 4096)) == Failed("now there is room")
    os.close(pipes[0])
