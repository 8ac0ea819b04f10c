"""A taker's requests, over a real connection: in which order they are answered."""

from __future__ import annotations

import ssl
import time

import pytest

from checkpoint.core.pages import PAGE_BYTES
from checkpoint.core.pagewire import GET, HURRY, NOW, REQUEST_BYTES, SAME, SOON, Request, encode_request
from checkpoint.memory.requests import Requests


def get(number: int, kind: int = GET) -> Request:
    return Request(kind, 5, 1, number, number * PAGE_BYTES, PAGE_BYTES)


def never() -> float:
    return 0.0


@pytest.fixture
def asked(ends):
    """The taker's socket, and what the giver makes of its end."""
    return ends.taker, Requests(ends.giver)


def say(taker: ssl.SSLSocket, *some: Request) -> None:
    taker.sendall(b"".join(map(encode_request, some)))


def test_what_somebody_waits_for_goes_first_and_what_lies_near_it_before_the_background(asked):
    taker, requests = asked
    say(taker, get(1), get(2, SOON), get(3, NOW), get(4), get(5, SOON), get(6, NOW))
    expected = [get(3, NOW), get(6, NOW), get(2, SOON), get(5, SOON), get(1), get(4)]
    assert [requests.next(never) for _ in range(5)] == expected[:5]
    assert requests.waiting
    assert requests.next(never) == expected[5]
    say(taker, get(6, HURRY))  # which is not to be answered
    assert not requests.waiting


@pytest.mark.parametrize("kind", [GET, SOON])
def test_what_was_asked_for_before_somebody_waited_is_hurried_and_answered_once(asked, kind):
    taker, requests = asked
    say(taker, get(1), get(2, kind), get(2, HURRY), get(3))
    assert [requests.next(never) for _ in range(3)] == [get(2, NOW), get(1), get(3)]
    assert not requests.waiting
    say(taker, get(3, HURRY), get(4))  # too late: it has been answered
    assert requests.next(never) == get(4)


def test_nothing_goes_before_what_is_no_request_for_pages(asked):
    """What is sent ahead has to have come before anything else."""
    taker, requests = asked
    say(taker, Request(SAME), get(1, NOW))
    assert [requests.next(never) for _ in range(2)] == [Request(SAME), get(1, NOW)]


def test_who_waits_does_not_wait_for_the_limit_of_the_background(asked):
    taker, requests = asked
    say(taker, get(1))

    def long_pause() -> float:
        """Meanwhile somebody waits for a page."""
        say(taker, get(2, NOW))
        return 1000.0

    assert requests.next(long_pause) == get(2, NOW)
    until = time.monotonic() + 0.3
    assert requests.next(lambda: max(0.0, until - time.monotonic())) == get(1)
    assert time.monotonic() >= until


def test_it_ends_with_the_connection_and_in_the_middle_of_a_request_with_an_error(asked):
    taker, requests = asked
    taker.sendall(encode_request(get(1))[: REQUEST_BYTES - 1])
    taker.shutdown(1)
    with pytest.raises(OSError, match=r"cut off|EOF"):
        requests.next(never)
