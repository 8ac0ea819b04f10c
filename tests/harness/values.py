"""What a Redis is asked to remember, and asked for again when it has moved."""

from __future__ import annotations

import hashlib
import random
import threading
from itertools import count

from tests.harness.moving import REDIS_PORT, Scene, ask

VALUE_BYTES = 1 << 20


class Data:
    """Values that no compressor makes smaller, in a Redis, and one connection to it."""

    def __init__(self, stage: Scene, values: int = 24) -> None:
        self._sock = stage.connect(stage.client, stage.a.address, REDIS_PORT, 30)
        self._chance = random.Random(7)
        self._sums: dict[int, bytes] = {}
        for number in range(values):
            self.write(number)

    def write(self, number: int) -> None:
        """A value, new or another."""
        value = self._chance.randbytes(VALUE_BYTES)
        self._sums[number] = hashlib.sha256(value).digest()
        self._sock.sendall(b"*3\r\n$3\r\nSET\r\n$2\r\n%02d\r\n$%d\r\n%b\r\n" % (number, VALUE_BYTES, value))
        assert self._line() == b"+OK"

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            more = self._sock.recv(1)
            assert more, "Redis hung up"
            line += more
        return line[:-2]

    def keep_writing(self, over: threading.Event) -> int:
        """The first quarter of the values anew, one after the other, until it is over; how many."""
        for written in count():
            if over.is_set():
                return written
            self.write(written % (len(self._sums) // 4))
        raise AssertionError

    def check(self) -> None:
        """Every value is what it was, over the connection that was there before."""
        for number in reversed(self._sums):
            self._sock.sendall(b"GET %02d\r\n" % number)
            left = int(self._line()[1:]) + 2
            value = bytearray()
            while left:
                some = self._sock.recv(left)
                assert some, "Redis hung up"
                value += some
                left -= len(some)
            assert hashlib.sha256(value[:-2]).digest() == self._sums[number], f"value {number} differs"
        assert ask(self._sock, "DBSIZE") == f":{len(self._sums)}"
