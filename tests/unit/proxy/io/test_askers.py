from __future__ import annotations

import asyncio

import pytest

from proxy.api import Endpoint
from proxy.io import askers
from proxy.io.askers import Askers

APP, PEER = Endpoint("10.0.0.2", 7000), Endpoint("10.0.0.9", 40000)


class Clock:
    """A loop's time."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(clock: Clock) -> Askers:
    return Askers(clock)  # type: ignore[arg-type]


def test_who_has_asked_here_is_answered_from_here_for_a_minute(made: Askers, clock: Clock) -> None:
    assert not made.is_direct((APP, PEER))
    made.heard((APP, PEER))
    clock.now += 50
    made.heard((APP, PEER))
    clock.now += askers.IDLE_SECONDS
    assert made.is_direct((APP, PEER))
    assert not made.is_direct((PEER, APP))
    clock.now += 1
    assert not made.is_direct((APP, PEER))


def test_whom_the_workload_has_connected_to_lasts(made: Askers, clock: Clock) -> None:
    made.connected.add((APP, PEER))
    clock.now += 10 * askers.IDLE_SECONDS
    assert made.is_direct((APP, PEER))


def test_the_one_that_was_silent_longest_makes_room(made: Askers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(askers, "MAX_DIRECT", 2)
    one, two, three = ((APP, Endpoint("10.0.0.9", port)) for port in (1, 2, 3))
    for ends in (one, two, one, three):
        made.heard(ends)
    assert [made.is_direct(ends) for ends in (one, two, three)] == [True, False, True]


async def test_a_loop_has_the_time() -> None:
    made = Askers(asyncio.get_running_loop())
    made.heard((APP, PEER))
    assert made.is_direct((APP, PEER))
