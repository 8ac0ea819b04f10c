"""A consignment that several threads send: what they share, under one lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from checkpoint.core.consignment import Consignment
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.parcel import Parcel
from checkpoint.core.squeeze import PROOF_BYTES, Mode, Squeeze
from checkpoint.core.throttle import Throttle


class Shipment:
    """What the streams of one transfer have to do, until all is done or somebody stops it."""

    def __init__(self, bytes_per_second: float = 0.0, mode: Mode = Mode.AUTO) -> None:
        self.retries = 0
        self.seconds = 0.0
        """From the first parcel to the last answer."""
        self._consignment = Consignment()
        self._changed = threading.Condition()
        self._problem: AgentError | None = None
        self._throttle = Throttle(bytes_per_second)
        self.squeeze = Squeeze(mode, assumed=_ASSUMED_BYTES_PER_SECOND, margin=_MARGIN)
        if bytes_per_second:  # how slow this wire is has not to be found out first
            self.squeeze.carried(PROOF_BYTES, PROOF_BYTES / bytes_per_second)
        self._began = 0.0

    def tell(self, what: Callable[[Consignment], None]) -> None:
        """Something has happened to the folder. Raises what `what` raises."""
        with self._changed:
            what(self._consignment)
            self._changed.notify_all()

    def stop(self, problem: AgentError) -> None:
        """End the streams, and the waiting; the first reason stays."""
        with self._changed:
            self._problem = self._problem or problem
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        return self._problem is not None

    @property
    def sent_bytes(self) -> int:
        return self._consignment.sent_bytes

    def check(self) -> None:
        """Raises AgentError where it cannot be completed."""
        if self._problem is not None:
            raise self._problem

    def wait(self) -> None:
        """Until everything has arrived. Blocks; raises AgentError."""
        with self._changed:
            self._changed.wait_for(lambda: self._problem is not None or self._consignment.complete)
            self.check()

    def catch_up(self) -> None:
        """Until everything that there is so far has arrived. Blocks; raises AgentError."""
        with self._changed:
            self._changed.wait_for(lambda: self._problem is not None or self._consignment.idle)
            self.check()

    # -- of the streams

    def next(self, *, patiently: bool) -> Parcel | None:
        """What to send; None: nothing now, and when one was patient, nothing ever. Raises AgentError when stopped."""
        with self._changed:
            while True:
                self.check()
                if (parcel := self._consignment.take()) is not None:
                    self._began = self._began or time.monotonic()
                    return parcel
                if not patiently or self._consignment.complete:
                    return None
                self._changed.wait()

    def is_wanted(self, parcel: Parcel) -> bool:
        """False once the folder that it is of is to be emptied."""
        with self._changed:
            return parcel.attempt == self._consignment.attempt

    def arrived(self, number: int) -> None:
        with self._changed:
            self._consignment.arrived(number)
            if self._consignment.idle:
                self.seconds = time.monotonic() - self._began
                self._changed.notify_all()

    def lost(self, numbers: Iterable[int]) -> None:
        with self._changed:
            self.retries += 1
            self._consignment.lost(numbers)
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Sleep, unless it is stopped. Raises AgentError then."""
        with self._changed:
            self._changed.wait_for(lambda: self._problem is not None, seconds)
            self.check()

    def throttle(self, size: int) -> float:
        """Wait until so many bytes may go; for how many seconds. Raises AgentError when stopped."""
        with self._changed:
            delay = self._throttle.delay(size, time.monotonic())
        if delay:
            self.pause(delay)
        return delay

    def wants_compression(self) -> bool:
        with self._changed:
            return self.squeeze.wanted()

    def went(self, plain_bytes: int, wire_bytes: int, packing_seconds: float, wire_seconds: float) -> None:
        """Account for one parcel; `packing_seconds` is 0 where it went as it is."""
        with self._changed:
            if packing_seconds:
                self.squeeze.compressed(plain_bytes, wire_bytes, packing_seconds)
            else:
                self.squeeze.stored(plain_bytes)
            if wire_bytes >= _TELLING_BYTES:
                self.squeeze.carried(wire_bytes, wire_seconds)


_TELLING_BYTES = 64 << 10
"""Less than this takes as long as the call does, whatever the wire."""

_ASSUMED_BYTES_PER_SECOND = 0.5e9
"""What one core compresses, until it is known."""
_MARGIN = 4.0
"""So gigabit Ethernet is where it begins to pay. A machine that is busy makes any wire look slow, and compressing there
takes the processor from CRIU."""


def closed() -> AgentError:
    """Why a shipment ends that nobody wants any more."""
    return AgentError(Code.TRANSFER_BROKEN, "the images are not wanted any more")
