"""The taker's end of the connection to the giver: requests out, answers in, in their order, never blocking."""

from __future__ import annotations

import contextlib
import ssl

from checkpoint.core import pagewire
from checkpoint.core.pagewire import Answer, Request

_NOT_NOW = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """Every method raises OSError when the connection is broken, and AgentError when the giver talks nonsense."""

    def __init__(self, sock: ssl.SSLSocket, body: memoryview) -> None:
        """The bytes of an answer are put into `body`."""
        sock.setblocking(False)
        self._sock = sock
        self._body = body
        self._out = bytearray()
        self._header = bytearray()
        self._answer: Answer | None = None
        self._got = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def blocked(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    @property
    def pending(self) -> bool:
        """Whether bytes have been read from the kernel already, so that no selector tells of them."""
        return self._sock.pending() > 0

    def say(self, *requests: Request) -> None:
        self._out += b"".join(map(pagewire.encode_request, requests))
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(*_NOT_NOW):
            while self._out:
                del self._out[: self._sock.send(self._out)]

    def hear(self) -> Answer | None:
        """The next answer, once all of it is there; None: not yet."""
        try:
            if self._answer is None:
                self._answer = self._head()
            while self._got < self._answer.body_bytes:
                self._got += self._some(self._body[self._got : self._answer.body_bytes])
        except _NOT_NOW:
            return None
        whole, self._answer, self._got = self._answer, None, 0
        return whole

    def _head(self) -> Answer:
        while (missing := pagewire.ANSWER_BYTES - len(self._header)) > 0:
            some = bytearray(missing)
            self._header += some[: self._some(memoryview(some))]
        answer = pagewire.decode_answer(bytes(self._header))
        self._header.clear()
        return answer

    def _some(self, into: memoryview) -> int:
        got = self._sock.recv_into(into)
        if not got:
            raise ConnectionResetError("the source hung up")
        return got

    def close(self) -> None:
        self._sock.close()
