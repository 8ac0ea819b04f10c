"""What several threads send between them: each parcel by one of them, again when it is lost, until all is there."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.core.squeeze import Mode
from checkpoint.core.throttle import BURST_SECONDS
from checkpoint.transfer.shipment import Shipment, closed

REASON = AgentError(Code.LEASE_EXPIRED, "too late")


@pytest.fixture
def threads():
    with ThreadPoolExecutor() as made:
        yield made


@pytest.fixture
def shipment(threads):
    """Stopped at the end, so that no thread waits for ever where a test has failed."""
    made = Shipment()
    yield made
    made.stop(closed())


def waits(future: Future[object]) -> bool:
    """It has begun, and does not end by itself."""
    with pytest.raises(TimeoutError):
        future.result(0.05)
    return True


def test_whoever_asks_patiently_gets_what_comes_and_nothing_when_all_has_arrived(shipment, threads):
    assert shipment.next(patiently=False) is None
    asked = threads.submit(shipment.next, patiently=True)
    assert waits(asked)
    shipment.tell(lambda one: one.closed("a.img", 5))
    parcel = asked.result(10)
    assert parcel.size == shipment.sent_bytes == 5
    over, all_there = threads.submit(shipment.next, patiently=True), threads.submit(shipment.wait)
    shipment.tell(lambda one: one.seal({"a.img": 5}))
    assert waits(over)
    assert waits(all_there)
    shipment.arrived(parcel.number)
    assert over.result(10) is None
    assert all_there.result(10) is None
    assert shipment.seconds > 0


def test_catching_up_is_for_what_there_is_so_far(shipment, threads):
    shipment.catch_up()
    shipment.tell(lambda one: one.closed("a.img", 5))
    behind = threads.submit(shipment.catch_up)
    parcel = shipment.next(patiently=False)
    assert waits(behind)
    shipment.arrived(parcel.number)
    behind.result(10)


def test_what_was_lost_goes_again_to_whoever_asks(shipment, threads):
    shipment.tell(lambda one: one.seal({"a.img": 5}))
    parcel = shipment.next(patiently=True)
    other = threads.submit(shipment.next, patiently=True)
    assert waits(other)
    shipment.lost([parcel.number])
    assert other.result(10) == parcel
    assert (shipment.retries, shipment.sent_bytes) == (1, 10)


def test_what_is_of_a_folder_that_was_emptied_is_not_wanted_any_more(shipment):
    shipment.tell(lambda one: one.closed("a.img", 5))
    parcel = shipment.next(patiently=False)
    assert shipment.is_wanted(parcel)
    shipment.tell(lambda one: one.restart())
    assert not shipment.is_wanted(parcel)


def test_what_is_told_may_be_refused_and_stops_nothing(shipment):
    shipment.tell(lambda one: one.closed("a.img", 5))
    with pytest.raises(AgentError) as caught:
        shipment.tell(lambda one: one.seal({}))
    assert caught.value.code is Code.IMAGE_DAMAGED
    assert not shipment.stopped


def test_the_first_reason_to_stop_reaches_everybody_who_waits(threads):
    shipment = Shipment(bytes_per_second=10)
    shipment.tell(lambda one: one.closed("a.img", 5))
    shipment.throttle(1000)  # the first goes at once
    shipment.next(patiently=False)
    waiting = [
        threads.submit(shipment.next, patiently=True),
        threads.submit(shipment.wait),
        threads.submit(shipment.catch_up),
        threads.submit(shipment.pause, 60),
        threads.submit(shipment.throttle, 1000),
    ]
    assert all(waits(each) for each in waiting)
    shipment.stop(REASON)
    shipment.stop(closed())
    assert [each.exception(10) for each in waiting] == [REASON] * 5
    with pytest.raises(AgentError, match="too late"):
        shipment.check()
    assert shipment.stopped


def test_a_pause_is_as_long_as_it_is():
    began = time.monotonic()
    Shipment().pause(0.02)
    assert time.monotonic() - began >= 0.02


def test_all_threads_share_one_rate():
    shipment = Shipment(bytes_per_second=1e6)
    began = time.monotonic()
    with ThreadPoolExecutor() as threads:
        list(threads.map(shipment.throttle, [100_000] * 3))
    assert time.monotonic() - began >= 0.2 - BURST_SECONDS  # the first goes at once


def test_of_a_wire_with_a_limit_it_is_known_from_the_start_that_compressing_pays():
    assert Shipment(bytes_per_second=1e6).wants_compression()
    assert not Shipment(bytes_per_second=1e9).wants_compression()


def test_a_slow_wire_makes_it_compress_and_a_short_parcel_says_nothing_of_the_wire():
    shipment = Shipment(mode=Mode.AUTO)
    for _ in range(20):
        shipment.went(1000, 1000, 0.0, 10.0)
    assert shipment.squeeze.report().wire_bytes_per_second == 0
    assert not shipment.wants_compression()
    for _ in range(20):
        shipment.went(CHUNK_BYTES, CHUNK_BYTES, 0.0, 1.0)
    assert shipment.wants_compression()
    shipment.went(CHUNK_BYTES, CHUNK_BYTES // 2, 0.001, 0.5)
    assert shipment.squeeze.report().compressed_chunks == 1
