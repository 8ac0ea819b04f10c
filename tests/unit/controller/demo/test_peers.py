"""Each kind of connection, against a right server and against wrong ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.demo.exchange import Asker, command
from controller.demo.peers import PIPELINE, Bulk, Counter, Pattern, Publisher, Subscriber, channel_name

from .fake_redis import FakeRedis

PREFIX = "test"
NUMBERS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def turn(asker: Asker, redis: FakeRedis, times: int = 1) -> None:
    for _ in range(times):
        asker.receive(redis(asker.turn(1.0)), 1.1)


def counter_on(redis: FakeRedis) -> Counter:
    counter = Counter("counter0", PREFIX)
    counter.receive(redis(counter.hello(0.0)), 0.1)
    return counter


def test_a_counter_finds_a_right_server_right() -> None:
    redis = FakeRedis()
    counter = counter_on(redis)
    turn(counter, redis, 500)
    counter.receive(redis(counter.goodbye(2.0)), 2.1)
    assert (counter.wrong, counter.idle) == (0, True)
    assert counter.replies == 2 + 500 * PIPELINE + 3
    assert redis.data == {}


def test_two_counters_do_not_share_a_key() -> None:
    redis = FakeRedis()
    counters = [Counter(f"counter{number}", PREFIX) for number in range(2)]
    for counter in counters:
        counter.receive(redis(counter.hello(0.0)), 0.1)
    for _ in range(3):
        for counter in counters:
            turn(counter, redis)
    assert [counter.wrong for counter in counters] == [0, 0]


def test_a_counter_sees_a_planted_count_once_and_in_the_last_check_again() -> None:
    redis = FakeRedis()
    counter = counter_on(redis)
    turn(counter, redis)
    redis.data[b"test:counter0:count"] = b"1000"
    turn(counter, redis)
    assert counter.wrong == 4  # three INCR and one GET
    turn(counter, redis, 10)
    assert counter.wrong == 4
    counter.receive(redis(counter.goodbye(2.0)), 2.1)
    assert counter.wrong == 5


def test_a_counter_sees_a_planted_value() -> None:
    redis = FakeRedis()
    counter = counter_on(redis)
    turn(counter, redis)
    redis.data[b"test:counter0:value"] = b"?" * 32
    turn(counter, redis, 3)
    assert counter.wrong == 1


def test_a_counter_sees_an_increment_done_twice() -> None:
    redis = FakeRedis()
    counter = counter_on(redis)
    request = counter.turn(1.0)
    redis(request[: request.index(b"*", 1)])
    counter.receive(redis(request), 1.1)
    assert counter.wrong > 0


def test_a_counter_whose_count_is_refused_goes_on() -> None:
    counter = counter_on(FakeRedis())
    counter.turn(1.0)
    counter.receive(b"-ERR no\r\n" * PIPELINE, 1.1)
    assert (counter.wrong, counter.idle) == (PIPELINE, True)


def subscriber_ready() -> Subscriber:
    subscriber = Subscriber("subscriber0", PREFIX, 2)
    assert not subscriber.ready
    subscriber.receive(FakeRedis()(subscriber.hello(0.0)), 0.1)
    assert subscriber.ready
    assert subscriber.idle
    return subscriber


def message(number: int) -> bytes:
    return command(b"message", channel_name(PREFIX, number % 2), b"%d" % number)


def test_a_subscriber_gets_each_number_once_and_in_order() -> None:
    subscriber = subscriber_ready()
    subscriber.published(40, 40, 40 * len(message(10)), 1.0)
    stream = b"".join(message(number) for number in range(1, 41))
    for begin in range(0, len(stream), 7):
        subscriber.receive(stream[begin : begin + 7], 1.1)
    assert (subscriber.replies, subscriber.wrong, subscriber.missing, subscriber.idle) == (40, 0, 0, True)


@given(NUMBERS)
def test_any_other_order_is_seen(numbers: list[int]) -> None:
    subscriber = subscriber_ready()
    subscriber.published(40, 40, 2000, 1.0)
    for number in numbers:
        subscriber.receive(message(number), 1.1)
    in_order = numbers == list(range(1, len(numbers) + 1))
    assert (subscriber.wrong == 0) is in_order
    subscriber.lost("silent", 2.0)
    assert subscriber.missing == 40 - seen_in_order(numbers)
    assert (subscriber.missing > 0) is (seen_in_order(numbers) < 40)


def seen_in_order(numbers: list[int]) -> int:
    """How many of 1 to 40 arrived behind all that had arrived before."""
    last = seen = 0
    for number in numbers:
        if number > last:
            last, seen = number, seen + 1
    return seen


def test_a_gap_is_counted_once() -> None:
    subscriber = subscriber_ready()
    subscriber.published(8, 8, 8 * 50, 1.0)
    for number in (1, 2, 5, 6, 7, 8):
        subscriber.receive(message(number), 1.1)
    assert (subscriber.wrong, subscriber.missing, subscriber.bytes_lost, subscriber.idle) == (1, 2, 100, True)


def test_a_number_that_nobody_published_is_wrong_and_moves_nothing() -> None:
    subscriber = subscriber_ready()
    subscriber.published(2, 2, 100, 1.0)
    for number in (1, 77, 2):
        subscriber.receive(message(number), 1.1)
    assert (subscriber.wrong, subscriber.missing, subscriber.idle) == (1, 0, True)


@pytest.mark.parametrize(
    "reply", [b"+OK\r\n", command(b"message", b"elsewhere", b"1"), command(b"message", channel_name(PREFIX, 1), b"x")]
)
def test_what_is_no_message_is_wrong(reply: bytes) -> None:
    subscriber = subscriber_ready()
    subscriber.receive(reply, 1.0)
    assert subscriber.wrong == 1


def publishing(subscribers: int) -> tuple[FakeRedis, Publisher, list[Subscriber]]:
    redis = FakeRedis()
    listening = [Subscriber(f"subscriber{number}", PREFIX, 2) for number in range(subscribers)]
    for subscriber in listening:
        subscriber.receive(redis(subscriber.hello(0.0)), 0.1)
    publisher = Publisher("publisher", PREFIX, 2, listening)
    publisher.receive(redis(publisher.hello(0.0)), 0.1)
    return redis, publisher, listening


def test_what_is_published_is_expected_by_every_subscriber() -> None:
    redis, publisher, subscribers = publishing(3)
    turn(publisher, redis, 5)
    assert [subscriber.silence.outstanding for subscriber in subscribers] == [5 * PIPELINE] * 3
    for subscriber in subscribers:
        subscriber.receive(b"".join(redis.published), 1.2)
    publisher.receive(redis(publisher.goodbye(2.0)), 2.1)
    assert all(peer.idle and not peer.wrong for peer in (publisher, *subscribers))


def test_a_publication_that_reaches_too_few_is_wrong() -> None:
    redis, publisher, _ = publishing(3)
    redis.subscribers = 2
    turn(publisher, redis)
    assert publisher.wrong == PIPELINE


def test_a_lost_subscriber_is_one_fault_not_two() -> None:
    redis, publisher, subscribers = publishing(3)
    redis.subscribers = 2
    subscribers[0].lost("reset", 1.0)
    turn(publisher, redis)
    assert publisher.wrong == 0
    assert subscribers[0].idle
    redis.subscribers = 1
    turn(publisher, redis)
    assert publisher.wrong == PIPELINE


def test_a_publication_answered_with_nonsense_is_wrong() -> None:
    _, publisher, _ = publishing(1)
    publisher.turn(1.0)
    publisher.receive(b"+OK\r\n" * PIPELINE, 1.1)
    assert publisher.wrong == PIPELINE


def test_every_value_of_a_pattern_says_where_it_belongs() -> None:
    pattern = Pattern(4096)
    values = [pattern.value(number) for number in range(300)]
    assert {len(value) for value in values} == {4096}
    assert len({value[16:] for value in values}) == 300
    assert Pattern(4096).value(7) == values[7]


def test_bulk_finds_a_right_server_right() -> None:
    redis = FakeRedis()
    bulk = Bulk("bulk0", PREFIX, Pattern(2000))
    bulk.receive(redis(bulk.hello(0.0)), 0.1)
    requests = [bulk.turn(1.0) for _ in range(4)]
    assert bulk.pending == 4
    stream = b"".join(map(redis, requests))
    for begin in range(0, len(stream), 300):
        bulk.receive(stream[begin : begin + 300], 1.1)
    turn(bulk, redis, 20)
    assert len(redis.data) == Bulk.KEYS
    bulk.receive(redis(bulk.goodbye(2.0)), 2.1)
    assert (bulk.wrong, bulk.bytes_lost, bulk.idle, redis.data) == (0, 0, True, {})


def test_bulk_that_never_had_a_turn_says_goodbye_too() -> None:
    redis = FakeRedis()
    bulk = Bulk("bulk0", PREFIX, Pattern(2000))
    bulk.receive(redis(bulk.goodbye(0.0)), 0.1)
    assert (bulk.wrong, bulk.idle) == (0, True)


def test_bulk_sees_values_that_changed_places() -> None:
    redis = FakeRedis()
    bulk = Bulk("bulk0", PREFIX, Pattern(2000))
    first, second = redis(bulk.turn(1.0)), redis(bulk.turn(1.0))
    bulk.receive(second + first, 1.1)
    assert bulk.wrong == 2
    assert bulk.bytes_lost > 3000
