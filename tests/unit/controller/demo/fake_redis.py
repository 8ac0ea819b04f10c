"""The few commands of Redis that the load uses, as a function on bytes: what a right server answers."""

from __future__ import annotations

from controller.demo.exchange import bulk_string, command, parse


class FakeRedis:
    """A server without a socket. (The real one is in tests/system/test_load_alone.py.)"""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.subscribers = 0
        self.published: list[bytes] = []

    def __call__(self, request: bytes) -> bytes:
        return b"".join(self._one(*words) for words in parse(request))

    def _one(self, name: bytes, *words: bytes) -> bytes:
        match name:
            case b"PING":
                return b"+PONG\r\n"
            case b"SET":
                self.data[words[0]] = words[1]
                return b"+OK\r\n"
            case b"GET":
                return bulk_string(self.data[words[0]])
            case b"INCR":
                self.data[words[0]] = b"%d" % (int(self.data[words[0]]) + 1)
                return b":" + self.data[words[0]] + b"\r\n"
            case b"DEL":
                return b":%d\r\n" % sum(self.data.pop(key, None) is not None for key in words)
            case b"SUBSCRIBE":
                self.subscribers += 1
                channels = enumerate(words, 1)
                return b"".join(
                    b"*3\r\n%s%s:%d\r\n" % (bulk_string(b"subscribe"), bulk_string(c), n) for n, c in channels
                )
            case b"PUBLISH":
                self.published.append(command(b"message", *words))
                return b":%d\r\n" % self.subscribers
        raise AssertionError(name)
