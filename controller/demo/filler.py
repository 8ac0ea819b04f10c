"""Much memory for the demo's Redis, and a load that writes all over it and reads it back. Pure but for `fill`.

The values are slices of one block of random bytes, each at another place of it: nothing that could be compressed away,
and known beforehand to the byte. The first half of each value is written on; the second is only read.
"""

from __future__ import annotations

import random
import socket

from controller.demo.exchange import Asker, Exchange, bulk_string, command

VALUE_BYTES = 64 << 10
STAMP_BYTES = 16
_BLOCK_BYTES = 8 << 20
_STEP_BYTES = 4099  # a prime: two values begin at the same place of the block only after thousands of others
_BATCH = 16
_FILL_SECONDS = 60.0


class Filling:
    """So many values, and what is in each."""

    def __init__(self, prefix: str, size_bytes: int) -> None:
        self.count = max(1, size_bytes // VALUE_BYTES)
        self._prefix = prefix
        self._block = random.Random(4).randbytes(_BLOCK_BYTES)

    def key(self, number: int) -> bytes:
        return f"{self._prefix}:filling:{number}".encode()

    def value(self, number: int) -> bytes:
        start = number * _STEP_BYTES % (_BLOCK_BYTES - VALUE_BYTES)
        return self._block[start : start + VALUE_BYTES]

    def part(self, number: int, offset: int) -> bytes:
        """STAMP_BYTES of a value as it was written first."""
        start = number * _STEP_BYTES % (_BLOCK_BYTES - VALUE_BYTES) + offset
        return self._block[start : start + STAMP_BYTES]


def fill(host: str, port: int, filling: Filling) -> None:
    """Write every value, in batches. For a thread. Raises OSError, also when Redis says anything but OK."""
    with socket.create_connection((host, port), _FILL_SECONDS) as sock:
        for start in range(0, filling.count, _BATCH):
            numbers = range(start, min(start + _BATCH, filling.count))
            for number in numbers:
                sock.sendall(b"*3\r\n$3\r\nSET\r\n" + bulk_string(filling.key(number)))
                sock.sendall(bulk_string(filling.value(number)))
            due = b"+OK\r\n" * len(numbers)
            got = b""
            while len(got) < len(due):
                more = sock.recv(len(due) - len(got))
                got += more
                if not more or not due.startswith(got):
                    raise ConnectionError(f"Redis did not take its filling: {got[:80]!r}")


class Toucher(Asker):
    """Overwrites a few bytes of a value at random, reads them back, and reads others that nobody has written since."""

    role = "toucher"

    def __init__(self, name: str, filling: Filling, number: int, of: int) -> None:
        """The `number`-th of so many: each has values of its own."""
        super().__init__(name)
        self._filling = filling
        self._own = range(number % filling.count, filling.count, of)
        self._chance = random.Random(number)
        self._asked: list[float] = []
        self.latencies: list[tuple[float, float]] = []
        """When each exchange was asked, and how long it took, in seconds."""
        self._turns = 0
        self._now = 0.0

    def hello(self, now: float) -> bytes:
        self._asked.append(now)
        return self._ask(Exchange(command(b"PING"), b"+PONG\r\n", 1), now)

    def turn(self, now: float) -> bytes:
        self._asked.append(now)
        self._turns += 1
        half = VALUE_BYTES // 2
        written, read = self._chance.choice(self._own), self._chance.choice(self._own)
        at, there = self._chance.randrange(half - STAMP_BYTES), half + self._chance.randrange(half - STAMP_BYTES)
        stamp = b"%0*d" % (STAMP_BYTES, self._turns)
        request = b"".join((
            command(b"SETRANGE", self._filling.key(written), b"%d" % at, stamp),
            command(b"GETRANGE", self._filling.key(written), b"%d" % at, b"%d" % (at + STAMP_BYTES - 1)),
            command(b"GETRANGE", self._filling.key(read), b"%d" % there, b"%d" % (there + STAMP_BYTES - 1)),
        ))  # fmt: skip
        expected = b":%d\r\n" % VALUE_BYTES + bulk_string(stamp) + bulk_string(self._filling.part(read, there))
        return self._ask(Exchange(request, expected, 3), now)

    def goodbye(self, now: float) -> bytes:
        self._asked.append(now)
        return self._ask(Exchange(command(b"PING"), b"+PONG\r\n", 1), now)

    def receive(self, data: bytes, now: float) -> None:
        self._now = now
        super().receive(data, now)

    def _complete(self, exchange: Exchange) -> None:
        super()._complete(exchange)
        asked = self._asked.pop(0)
        self.latencies.append((asked, self._now - asked))
