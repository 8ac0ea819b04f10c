"""What a taker asks of the giver, in the order in which it is to be answered."""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable
from itertools import takewhile

from checkpoint.core.pagewire import FOR_PAGES, HURRY, NOW, REQUEST_BYTES, Request, decode_request


class Requests:
    """Of one connection. What somebody waits for goes before what lies near it, and that before what is fetched in the
    background, also where that was asked for earlier, and waits already because more may not be sent."""

    def __init__(self, taker: ssl.SSLSocket) -> None:
        self._taker = taker
        self._poll = select.poll()
        self._poll.register(taker, select.POLLIN)
        self._read: list[Request] = []

    @property
    def waiting(self) -> bool:
        """Whether another one is to be answered."""
        return bool(self._read)

    def next(self, pause: Callable[[], float]) -> Request | None:
        """Waits for it; None: the taker hung up. `pause` says in how many seconds more may be sent that nobody waits
        for: so long something else may come first. Raises OSError, and AgentError for what no taker says."""
        while True:
            if self._read:
                found = self._first()
                may_wait = found.kind in FOR_PAGES and found.kind != NOW
                if not may_wait or not self._comes_within(pause()):
                    self._read.remove(found)
                    return found
            if not self._read_one():
                return None

    def _first(self) -> Request:
        for_pages = takewhile(_is_for_pages, self._read)
        return min(for_pages, key=_rank, default=self._read[0])

    def _read_one(self) -> bool:
        """Waits for it; False: the end."""
        raw = _exactly(self._taker, REQUEST_BYTES)
        if not raw:
            return False
        one = decode_request(raw)
        if one.kind == HURRY:
            self._read = [other._replace(kind=NOW) if other[1:] == one[1:] else other for other in self._read]
        else:
            self._read.append(one)
        return True

    def _comes_within(self, seconds: float) -> bool:
        """Whether another one does."""
        return self._taker.pending() > 0 or bool(self._poll.poll(seconds * 1000))


def _is_for_pages(one: Request) -> bool:
    return one.kind in FOR_PAGES


def _rank(one: Request) -> int:
    return FOR_PAGES.index(one.kind)


def _exactly(sock: ssl.SSLSocket, size: int) -> bytes:
    """`size` bytes; none at the end of the stream. Raises OSError for an end in the middle."""
    got = b""
    while len(got) < size:
        more = sock.recv(size - len(got))
        if not more:
            if got:
                raise OSError("cut off in the middle of a request")
            return b""
        got += more
    return got
