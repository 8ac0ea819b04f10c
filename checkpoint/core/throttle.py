"""A limit on how many bytes go out in a second. Pure: `now` is given, in seconds."""

from __future__ import annotations

BURST_SECONDS = 0.05
"""What may go at once after a pause: so much of a second's bytes. More would fill a queue on the way, less stutters."""


class Throttle:
    """Of one transfer, over all its streams."""

    def __init__(self, bytes_per_second: float) -> None:
        """0: no limit."""
        self._rate = bytes_per_second
        self._free_at = float("-inf")

    def delay(self, size: int, now: float, *, urgent: bool = False) -> float:
        """How many seconds from now these bytes may go; they count as sent. What is `urgent` may go a burst earlier:
        what is not waits for that in its place."""
        if not self._rate:
            return 0.0
        starts = max(self._free_at, now - BURST_SECONDS)
        self._free_at = starts + size / self._rate
        return max(0.0, starts - now - (BURST_SECONDS if urgent else 0.0))

    def pause(self, now: float) -> float:
        """In how many seconds more may go that is not urgent."""
        return max(0.0, self._free_at - now)
