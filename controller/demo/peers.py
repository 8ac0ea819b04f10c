"""The load's connections: counters, a publisher and its subscribers, bulk. Pure, as `exchange` is.

What each proves:
- a counter: that requests are executed once and in order (INCR), and that what was written is read (SET, GET);
- subscribers: that what the server sends unasked arrives once and in order, and that PUBLISH reaches all of them;
- bulk: that large values, both ways, arrive without a byte lost, altered or out of place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import hiredis

from controller.demo.exchange import NOTHING_YET, Asker, Exchange, Peer, bulk_string, command

PIPELINE = 8
"""Commands in one pipeline."""
INCREMENTS = 3
"""How many of them increment the counter."""
VALUE_BYTES = 32
"""Of the values that counters write and read back."""


_VALUE = b"$%d\r\n%%s\r\n" % VALUE_BYTES
REPLIES = b":%d\r\n" + _VALUE + b"+OK\r\n" + _VALUE + b":%d\r\n$%d\r\n%s\r\n:%d\r\n+PONG\r\n"
"""What a counter's pipeline must bring back."""


class Counter(Asker):
    """INCR, SET and GET on keys of its own, eight commands at a time."""

    role = "counter"

    def __init__(self, name: str, prefix: str) -> None:
        super().__init__(name)
        self._count_key = f"{prefix}:{name}:count".encode()
        self._value_key = f"{prefix}:{name}:value".encode()
        self._count = 0  # what the server said last
        self._increments = 0  # what was asked for in all
        self._value = self._make_value(0)
        self._request = self._template()

    def hello(self, now: float) -> bytes:
        request = command(b"SET", self._count_key, b"0") + command(b"SET", self._value_key, self._value)
        return self._ask(Exchange(request, b"+OK\r\n+OK\r\n", 2), now)

    def turn(self, now: float) -> bytes:
        """The next pipeline."""
        count, old = self._count, self._value
        self._value = new = self._make_value(count + 1)
        request = self._request % new
        last = b"%d" % (count + 2)
        expected = REPLIES % (count + 1, old, new, count + 2, len(last), last, count + INCREMENTS)
        self._count += INCREMENTS
        self._increments += INCREMENTS
        return self._ask(Exchange(request, expected, PIPELINE), now)

    def goodbye(self, now: float) -> bytes:
        """Does the counter say what it was incremented by, all in all? Is the value the last one written?"""
        keys = self._count_key, self._value_key
        request = command(b"GET", keys[0]) + command(b"GET", keys[1]) + command(b"DEL", *keys)
        expected = bulk_string(b"%d" % self._increments) + bulk_string(self._value) + b":2\r\n"
        return self._ask(Exchange(request, expected, 3), now)

    def _template(self) -> bytes:
        incr, get = command(b"INCR", self._count_key), command(b"GET", self._value_key)
        set_ = command(b"SET", self._value_key, b"?" * VALUE_BYTES).replace(b"?" * VALUE_BYTES, b"%s")
        return b"".join((incr, get, set_, get, incr, command(b"GET", self._count_key), incr, command(b"PING")))

    def _make_value(self, number: int) -> bytes:
        return f"{self.name}:{number}:".encode().ljust(VALUE_BYTES, b".")[:VALUE_BYTES]

    def _adopt(self, expected: Sequence[Any], got: Sequence[Any]) -> None:
        if len(got) == PIPELINE and isinstance(got[6], int):
            self._count = got[6]


def channel_name(prefix: str, number: int) -> bytes:
    return f"{prefix}:channel{number}".encode()


class Subscriber(Peer):
    """Must see every number that was published, once and in order, whatever the channel."""

    role = "subscriber"

    def __init__(self, name: str, prefix: str, channels: int) -> None:
        super().__init__(name)
        self._channels = [channel_name(prefix, number) for number in range(channels)]
        self._reader = hiredis.Reader(notEnoughData=NOTHING_YET)
        self.subscribed = 0
        self._published = 0
        self._next = 1
        self._message_bytes = 0

    @property
    def ready(self) -> bool:
        return self.subscribed == len(self._channels)

    def hello(self, now: float) -> bytes:
        request = command(b"SUBSCRIBE", *self._channels)
        self.bytes_sent += len(request)
        return request

    def published(self, last: int, messages: int, message_bytes: int, now: float) -> None:
        """Messages up to number `last` are on their way, `message_bytes` together."""
        self._published = last
        self._message_bytes = message_bytes // messages
        self.silence.asked(now, messages)

    def _check(self, data: bytes) -> None:
        self._reader.feed(data)
        for reply in iter(self._reader.gets, NOTHING_YET):
            match reply:
                case [b"message", bytes(channel), bytes(number)] if channel in self._channels and number.isdigit():
                    self._message(int(number))
                case [b"subscribe", bytes(), int(count)]:
                    self.subscribed = count
                case _:
                    self._mistake("a message", reply)

    def _message(self, number: int) -> None:
        self.replies += 1
        if number != self._next:
            self._mistake(self._next, number)
        if self._next <= number <= self._published:  # behind a gap it goes on, so that each missing one is counted once
            self._miss(number - self._next)
            self.silence.answered(1)
            self._next = number + 1

    def _miss(self, messages: int) -> None:
        self.missing += messages
        self.bytes_lost += messages * self._message_bytes
        self.silence.answered(messages)

    def _give_up(self) -> None:
        self._miss(self._published + 1 - self._next)


class Publisher(Asker):
    """Publishes consecutive numbers, channel after channel; each reply must be the number of subscribers."""

    role = "publisher"

    def __init__(self, name: str, prefix: str, channels: int, subscribers: Sequence[Subscriber]) -> None:
        super().__init__(name)
        self._channels = [channel_name(prefix, number) for number in range(channels)]
        self._subscribers = subscribers
        self._number = 0

    def hello(self, now: float) -> bytes:
        return self._ask(Exchange(command(b"PING"), b"+PONG\r\n", 1), now)

    def turn(self, now: float) -> bytes:
        first, self._number = self._number + 1, self._number + PIPELINE
        pairs = [(self._channels[n % len(self._channels)], b"%d" % n) for n in range(first, self._number + 1)]
        sizes = sum(len(command(b"message", channel, number)) for channel, number in pairs)
        for subscriber in self._subscribers:
            if subscriber.open:
                subscriber.published(self._number, PIPELINE, sizes, now)
        request = b"".join(command(b"PUBLISH", channel, number) for channel, number in pairs)
        return self._ask(Exchange(request, b":%d\r\n" % len(self._subscribers) * PIPELINE, PIPELINE), now)

    def goodbye(self, now: float) -> bytes:
        return self._ask(Exchange(command(b"PING"), b"+PONG\r\n", 1), now)

    def _acceptable(self, due: object, reply: object) -> bool:
        """A subscriber that was lost is counted as that, and makes the replies no more wrong."""
        alive = sum(subscriber.open for subscriber in self._subscribers)
        if isinstance(due, int) and isinstance(reply, int):
            return alive <= reply <= due
        return due == reply


class Pattern:
    """Bytes that say where in the stream they belong: value number n is a window on random bytes, moved by a prime."""

    STEP = 4093

    def __init__(self, value_bytes: int) -> None:
        self.value_bytes = value_bytes
        self._period = 1 << 20
        self._random = random.Random(value_bytes).randbytes(self._period + value_bytes)

    def value(self, number: int) -> bytes:
        """Value number `number`: its number, then its window. No two of a million consecutive ones are alike."""
        begin = number * self.STEP % self._period
        head = b"%016d" % number
        return head + self._random[begin + len(head) : begin + self.value_bytes]


class Bulk(Asker):
    """Writes a large value and reads it back, a few at a time: a stream in both directions."""

    role = "bulk"
    KEYS = 8
    """Values kept at the server at a time, so that the same key is not written again while its reading is under way."""

    def __init__(self, name: str, prefix: str, pattern: Pattern) -> None:
        super().__init__(name)
        self._keys = [f"{prefix}:{name}:{number}".encode() for number in range(self.KEYS)]
        self._pattern = pattern
        self._number = 0

    def hello(self, now: float) -> bytes:
        return self._ask(Exchange(command(b"PING"), b"+PONG\r\n", 1), now)

    def turn(self, now: float) -> bytes:
        """Write the next value, read it back."""
        key, value = self._keys[self._number % self.KEYS], self._pattern.value(self._number)
        self._number += 1
        string = bulk_string(value)
        request = b"".join((b"*3\r\n$3\r\nSET\r\n", bulk_string(key), string, command(b"GET", key)))
        return self._ask(Exchange(request, b"+OK\r\n" + string, 2), now)

    def goodbye(self, now: float) -> bytes:
        used = self._keys[: min(self._number, self.KEYS)]
        if not used:
            return self._ask(Exchange(command(b"PING"), b"+PONG\r\n", 1), now)
        return self._ask(Exchange(command(b"DEL", *used), b":%d\r\n" % len(used), 1), now)
