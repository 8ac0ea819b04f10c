"""Whether compressing pays, chunk by chunk. Pure: sizes and seconds in, a decision out.

A transfer is as fast as the slower of what makes its bytes and what takes them away. Compressing 1 byte into r costs
1/c seconds and saves (1 - r)/w on the wire, where c is the compressor's rate and w the wire's. With both at work at
once, n plain bytes take max(n/c, n*r/w) compressed and n/w plain: so it pays where c > w, and r is below 1 by enough to
be worth the processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PROBE_EVERY = 64
"""One chunk in so many is compressed even where it does not pay: memory is not the same everywhere."""
LEARN_CHUNKS = 8
PROOF_BYTES = 4 << 20
"""So much must have gone by a wire that it is called slow: the first packets of a connection prove nothing."""
WORTH_RATIO = 0.9
_SMOOTH = 0.3
_FADE = 0.98
"""What the wire did is remembered for some 50 chunks: an upload takes them in bursts, a part at a time."""


class Mode(StrEnum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True)
class Report:
    """What came of it; sizes before encryption."""

    mode: str
    plain_bytes: int
    packed_bytes: int
    compressed_chunks: int
    plain_chunks: int
    compress_bytes_per_second: float
    wire_bytes_per_second: float
    """While it was waited for; 0 where it never was."""


class Squeeze:
    """One transfer's decision. The shell tells what compressing took, and what the wire carried."""

    def __init__(self, mode: Mode = Mode.AUTO, *, assumed: float = 0.0, margin: float = 1.0) -> None:
        """`assumed`: bytes a second that the compressor is taken to do until it has been seen to do otherwise, so that
        nothing is compressed to learn from it where the wire is faster than that; 0: learn it first. `margin`: it has
        to be so many times as fast as the wire, where the processors have other work."""
        self._mode = mode
        self._assumed, self._margin = bool(assumed), margin
        self._plain_bytes = self._packed_bytes = 0
        self._compressed = self._stored = 0
        self._ratio = 0.0 if assumed else 1.0
        self._compress_rate = assumed
        self._wire_bytes = self._wire_seconds = 0.0

    def wanted(self) -> bool:
        """Whether the next chunk shall be compressed."""
        if self._mode is not Mode.AUTO:
            return self._mode is Mode.ON
        # Bytes for which nobody waited cost nothing to send.
        slow_wire = self._compress_rate * self._wire_seconds > self._wire_bytes * self._margin
        if self._assumed and (not slow_wire or self._wire_bytes < PROOF_BYTES):
            return False
        seen = self._compressed + self._stored
        if (seen < LEARN_CHUNKS and not self._assumed) or seen % PROBE_EVERY == 0:
            return seen % 2 == 0
        return self._ratio < WORTH_RATIO and slow_wire

    def compressed(self, plain_bytes: int, packed_bytes: int, seconds: float) -> None:
        """A chunk was compressed in `seconds` of one core."""
        self._count(plain_bytes, packed_bytes)
        self._compressed += 1
        if plain_bytes:
            self._ratio = _smooth(self._ratio, packed_bytes / plain_bytes, first=self._compressed == 1)
            if seconds > 0:
                rate = plain_bytes / seconds
                self._compress_rate = _smooth(self._compress_rate, rate, first=not self._compress_rate)

    def stored(self, plain_bytes: int) -> None:
        """A chunk went as it is."""
        self._count(plain_bytes, plain_bytes)
        self._stored += 1

    def carried(self, wire_bytes: int, seconds: float) -> None:
        """The wire was given these bytes, and was waited for so long before it wanted more."""
        self._wire_bytes = _FADE * self._wire_bytes + wire_bytes
        self._wire_seconds = _FADE * self._wire_seconds + seconds

    def report(self) -> Report:
        return Report(
            self._mode.value, self._plain_bytes, self._packed_bytes, self._compressed, self._stored,
            round(self._compress_rate), round(self._wire_bytes / self._wire_seconds) if self._wire_seconds else 0,
        )  # fmt: skip

    def _count(self, plain_bytes: int, packed_bytes: int) -> None:
        self._plain_bytes += plain_bytes
        self._packed_bytes += packed_bytes


def _smooth(old: float, new: float, *, first: bool) -> float:
    return new if first else old + _SMOOTH * (new - old)
