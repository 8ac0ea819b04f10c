"""What the giver answers to a taker, over one connection."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable

from checkpoint.core.pagewire import ANSWER_BYTES
from checkpoint.core.throttle import Throttle
from checkpoint.memory.requests import Requests


class Answers:
    """As fast as the limit lets them. What is short goes with the next, where another request is there already."""

    def __init__(self, taker: ssl.SSLSocket, requests: Requests, throttle: Callable[[], Throttle]) -> None:
        """`throttle` gives the limit, as it is by then."""
        self._taker, self._requests, self._throttle = taker, requests, throttle
        self._held = bytearray()

    def give(self, answer: bytes | memoryview, *, urgent: bool = False) -> None:
        """Blocks. `urgent`: somebody waits for it. Raises OSError."""
        is_short = len(answer) == ANSWER_BYTES
        if is_short:
            self._held += answer
            if self._requests.waiting and not urgent:
                return
        if delay := self._throttle().delay(len(answer), time.monotonic(), urgent=urgent):
            time.sleep(delay)
        self._send_held()
        if not is_short:
            self._taker.sendall(answer)

    def pause(self) -> float:
        """In how many seconds more may be given that is not urgent. What is held does not wait for that: by now
        somebody may wait for it."""
        if seconds := self._throttle().pause(time.monotonic()):
            self._send_held()
        return seconds

    def _send_held(self) -> None:
        if self._held:
            self._taker.sendall(self._held)
            self._held.clear()
