"""A Redis connection whose every reply is known beforehand, byte for byte. Pure: no clock, no socket.

The replies of a pipeline are computed when it is made, so checking them is one `startswith` on the raw bytes, which
costs next to nothing and misses nothing. Only when a byte differs are the replies parsed (hiredis), to say which one
was wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import msgspec

from controller.demo.report import MISTAKES_KEPT, ConnectionReport, Loss, Mistake, Role
from controller.demo.silence import Silence

SHOWN_CHARACTERS = 60

NOTHING_YET = object()


class Exchange(msgspec.Struct, frozen=True):
    """A pipeline that was sent, and what must come back."""

    request: bytes
    expected: bytes
    replies: int


def command(*words: bytes) -> bytes:
    """A command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join(map(bulk_string, words))


def bulk_string(word: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word), word)


def parse(raw: bytes) -> list[Any]:
    """Every reply in `raw`."""
    reader = hiredis.Reader(notEnoughData=NOTHING_YET)
    reader.feed(raw)
    return list(iter(reader.gets, NOTHING_YET))


def shown(reply: object) -> str:
    """A reply as a person can read it, cut short."""
    text = repr(reply)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"


class Peer(ABC):
    """What all the load's connections have in common: their counts, their silences, how they ended."""

    role: Role

    def __init__(self, name: str) -> None:
        self.name = name
        self.silence = Silence()
        self.replies = self.wrong = self.missing = 0
        self.bytes_sent = self.bytes_received = self.bytes_lost = 0
        self.loss: Loss | None = None
        self.lost_at: float | None = None
        self.last_heard = 0.0
        self.mistakes: list[Mistake] = []

    @property
    def open(self) -> bool:
        return self.loss is None

    @property
    def idle(self) -> bool:
        """Nothing is due: it can be asked again, or be closed."""
        return not self.silence.outstanding

    @abstractmethod
    def hello(self, now: float) -> bytes:
        """What to send first."""

    def receive(self, data: bytes, now: float) -> None:
        """Bytes came. Raises `hiredis.ProtocolError` when they are no RESP."""
        self.silence.heard(now)
        self.last_heard = now
        self.bytes_received += len(data)
        self._check(data)

    def lost(self, loss: Loss, now: float) -> None:
        """It ended, and should not have. Said twice, the first cause stands."""
        if self.loss is None:
            self.loss, self.lost_at = loss, now
            self._give_up()
            self.silence.ended(now)

    def report(self) -> ConnectionReport:
        return ConnectionReport(
            self.name,
            self.role,
            self.replies,
            self.wrong,
            self.missing,
            self.bytes_sent,
            self.bytes_received,
            self.bytes_lost,
            self.loss,
            self.lost_at,
            self.last_heard,
            self.silence.longest(),
        )

    @abstractmethod
    def _check(self, data: bytes) -> None: ...

    @abstractmethod
    def _give_up(self) -> None:
        """Account for what will not come any more."""

    def _mistake(self, expected: object, got: object) -> None:
        self.wrong += 1
        if len(self.mistakes) < MISTAKES_KEPT:
            self.mistakes.append(Mistake(self.name, shown(expected), shown(got)))


class Asker(Peer):
    """A connection that sends exchanges and checks what comes back."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._pending: deque[Exchange] = deque()
        self._at = 0  # bytes of the first pending exchange's replies that have come and are right
        self._reader: hiredis.Reader | None = None  # set from a wrong byte on, until nothing is pending
        self._parsed: list[Any] = []
        self._explained = False  # a reply was found that differs
        self._evidence = b""  # what made it parse
        self.exchanges = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    @abstractmethod
    def turn(self, now: float) -> bytes:
        """The next thing to send."""

    @abstractmethod
    def goodbye(self, now: float) -> bytes:
        """The last checks, and the removal of what it wrote."""

    def _ask(self, exchange: Exchange, now: float) -> bytes:
        """Note what must come back; gives what to send."""
        self._pending.append(exchange)
        self.silence.asked(now, exchange.replies)
        self.bytes_sent += len(exchange.request)
        return exchange.request

    def _check(self, data: bytes) -> None:
        while data and self._reader is None:
            data = self._match(data)
        if self._reader is not None:
            self._reader.feed(data)
            self._diagnose()

    def _match(self, data: bytes) -> bytes:
        """Compare with the replies due; gives the bytes left for the next exchange, or for the diagnosis."""
        if not self._pending:
            return self._suspect(data)
        expected = self._pending[0].expected
        due = len(expected) - self._at
        head = data if len(data) <= due else data[:due]
        if not expected.startswith(head, self._at):
            return self._suspect(expected[: self._at] + data)
        self._at += len(head)
        if self._at == len(expected):
            self._complete(self._pending[0])
        return data[due:]

    def _complete(self, exchange: Exchange) -> None:
        self._pending.popleft()
        self._at = 0
        self.replies += exchange.replies
        self.exchanges += 1
        self.silence.answered(exchange.replies)

    def _suspect(self, data: bytes) -> bytes:
        """A byte differs: from here on replies are parsed."""
        self._reader = hiredis.Reader(notEnoughData=NOTHING_YET)
        self._at = 0
        self._explained = False
        self._evidence = data
        return data

    def _diagnose(self) -> None:
        """Pair the replies that came with those that were due; back to comparing bytes once nothing is left."""
        reader = self._reader
        assert reader is not None
        self._parsed.extend(iter(reader.gets, NOTHING_YET))
        while self._pending and len(self._parsed) >= self._pending[0].replies:
            exchange = self._pending[0]
            got, self._parsed = self._parsed[: exchange.replies], self._parsed[exchange.replies :]
            self._judge(parse(exchange.expected), got)
            self._complete(exchange)
        if not self._pending:
            self._judge_uninvited()
            if not reader.has_data():
                self._trust_again()

    def _trust_again(self) -> None:
        """Back to comparing bytes. The parser overlooks some that differ (a string's closing CR LF): still wrong."""
        if not self._explained:
            self._mistake("other bytes", self._evidence)
        self._reader = None
        self._evidence = b""

    def _judge(self, expected: list[Any], got: list[Any]) -> None:
        for due, reply in zip(expected, got, strict=True):
            self._explained |= due != reply
            if not self._acceptable(due, reply):
                self._mistake(due, reply)
                self.bytes_lost += altered(due, reply)
        self._adopt(expected, got)

    def _judge_uninvited(self) -> None:
        """Replies that nobody asked for are wrong too."""
        for reply in self._parsed:
            self.replies += 1
            self._explained = True
            self._mistake("nothing", reply)
        self._parsed = []

    def _acceptable(self, due: object, reply: object) -> bool:
        return bool(due == reply)

    def _adopt(self, expected: Sequence[Any], got: Sequence[Any]) -> None:
        """Go on from what the server says, so that one fault is counted once and not for ever."""

    def _give_up(self) -> None:
        self.missing += max(0, sum(exchange.replies for exchange in self._pending) - len(self._parsed))
        self.bytes_lost += max(0, sum(len(exchange.expected) for exchange in self._pending) - self._at)
        self._pending.clear()


def altered(due: object, reply: object) -> int:
    """How many bytes of a string reply are not what they had to be, missing ones included."""
    if not isinstance(due, bytes) or not isinstance(reply, bytes):
        return len(due) if isinstance(due, bytes) else 0
    return sum(a != b for a, b in zip(due, reply, strict=False)) + max(0, len(due) - len(reply))
