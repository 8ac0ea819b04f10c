"""Turns: evenly spread, none for those that still wait, none made up for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from controller.demo.exchange import Asker, Exchange
from controller.demo.pacer import Pacer
from controller.demo.report import Role
from controller.demo.wire import Wire


class Turns(Asker):
    """Notes its turns. Its server answers at once, unless told not to."""

    role: Role = "counter"

    def __init__(self, name: str, *, answers: bool = True) -> None:
        super().__init__(name)
        self.at: list[float] = []
        self._answers = answers

    def hello(self, now: float) -> bytes:
        return b""

    goodbye = hello

    def turn(self, now: float) -> bytes:
        self.at.append(now)
        self._ask(Exchange(b"x", b"+OK\r\n", 1), now)
        if self._answers:
            self.receive(b"+OK\r\n", now)
        return b"x"


async def pace(
    askers: list[Turns],
    period: float,
    window: int = 1,
    seconds: float = 0.3,
    enough: Callable[[], bool] = lambda: True,
) -> float:
    """Let them have their turns, until there were `enough`; how long that really took."""
    pacer = Pacer([(Wire(asker, lambda: None), asker) for asker in askers], period, window)
    began = time.monotonic()
    pacer.start()
    await asyncio.sleep(seconds)  # the length of the run, at least
    async with asyncio.timeout(30):
        while not enough():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    pacer.stop()
    ran = time.monotonic() - began
    turns = [len(asker.at) for asker in askers]
    await asyncio.sleep(0.02)
    assert turns == [len(asker.at) for asker in askers]  # it has stopped
    return ran


async def test_everybody_has_a_turn_in_each_period() -> None:
    for _ in range(10):  # a busy machine may miss turns, but not for ever
        askers = [Turns(str(number)) for number in range(10)]
        ran = await pace(askers, 0.02)
        turns = [len(asker.at) for asker in askers]
        assert max(turns) <= ran / 0.02 + 1
        assert max(turns) - min(turns) <= 1
        if min(turns) >= 0.5 * ran / 0.02:
            return
    pytest.fail(f"{turns} turns in {ran:.2f} s")


async def test_who_waits_is_passed_over() -> None:
    slow, quick, gone = Turns("slow", answers=False), Turns("quick"), Turns("gone")
    gone.lost("reset", 0.0)
    await pace([slow, quick, gone], 0.02, enough=lambda: len(quick.at) > 3)
    assert len(slow.at) == 1
    assert gone.at == []


async def test_the_window_is_how_many_may_wait() -> None:
    slow = Turns("slow", answers=False)
    await pace([slow], 0.01, window=3, enough=lambda: len(slow.at) >= 3)
    assert len(slow.at) == 3


async def test_a_missed_turn_is_not_made_up_for() -> None:
    askers = [Turns("a"), Turns("b")]
    pacer = Pacer([(Wire(asker, lambda: None), asker) for asker in askers], 0.01, 1)
    pacer.start()
    time.sleep(0.2)  # the loop itself stands still, as it would on a busy machine
    goes_on = time.monotonic()
    await asyncio.sleep(0.004)
    pacer.stop()
    assert all(len(asker.at) <= 2 + (time.monotonic() - goes_on) / 0.01 for asker in askers)


async def test_nobody_needs_no_turns() -> None:
    await pace([], 0.01, seconds=0.01)
