"""What the giver says, over a real connection: what goes at once, and what waits for the next or for the limit."""

from __future__ import annotations

import time

import pytest

from checkpoint.core.pages import PAGE_BYTES
from checkpoint.core.pagewire import ANSWER_BYTES, GET, Request, encode_request
from checkpoint.core.throttle import BURST_SECONDS, Throttle
from checkpoint.memory.answers import Answers
from checkpoint.memory.requests import Requests

SHORT, LONG = bytes(ANSWER_BYTES), bytes(ANSWER_BYTES + PAGE_BYTES)
RATE = 10 * len(LONG) / BURST_SECONDS


class Giving:
    def __init__(self, ends) -> None:
        self.taker = ends.taker
        self.taker.settimeout(10)
        self.throttle = Throttle(0)
        self.requests = Requests(ends.giver)
        self.answers = Answers(ends.giver, self.requests, lambda: self.throttle)

    def have_two_asked_for(self) -> None:
        """One of which waits when the first is answered."""
        for number in (1, 2):
            self.taker.sendall(encode_request(Request(GET, 5, 1, number, PAGE_BYTES, PAGE_BYTES)))
        assert self.requests.next(lambda: 0.0)
        assert self.requests.waiting

    def heard(self) -> int:
        """How many bytes have come; waits for some."""
        return len(self.taker.recv(1 << 20))


@pytest.fixture
def giving(ends):
    return Giving(ends)


def test_what_is_short_goes_with_the_next_where_another_is_asked_for(giving):
    giving.answers.give(SHORT)
    assert giving.heard() == len(SHORT)
    giving.have_two_asked_for()
    giving.answers.give(SHORT)
    giving.answers.give(SHORT)
    giving.answers.give(SHORT, urgent=True)
    assert giving.heard() == 3 * len(SHORT)
    giving.answers.give(SHORT)
    giving.answers.give(LONG)
    assert giving.heard() == len(SHORT)
    assert giving.heard() == len(LONG)


def test_what_is_held_waits_for_no_limit(giving):
    giving.have_two_asked_for()
    giving.answers.give(SHORT)
    assert giving.answers.pause() == 0
    giving.throttle = Throttle(1)
    giving.throttle.delay(2, time.monotonic())
    assert giving.answers.pause() > 0
    assert giving.heard() == len(SHORT)


def test_what_is_not_urgent_waits_for_the_limit(giving):
    giving.throttle = Throttle(RATE)
    began = time.monotonic()
    for _ in range(30):
        giving.answers.give(LONG)
    assert time.monotonic() - began >= 1.5 * BURST_SECONDS


class Asked(Throttle):
    """Notes of what it is asked for whether that is urgent."""

    def __init__(self) -> None:
        super().__init__(0)
        self.urgent: list[bool] = []

    def delay(self, size: int, now: float, *, urgent: bool = False) -> float:
        self.urgent.append(urgent)
        return super().delay(size, now, urgent=urgent)


def test_the_limit_is_told_what_is_urgent(giving):
    giving.throttle = Asked()
    for urgent in (False, True):
        giving.answers.give(LONG, urgent=urgent)
    assert giving.throttle.urgent == [False, True]
