"""One restored process whose memory still comes: its userfaultfd, and what is known of its address space."""

from __future__ import annotations

import time
from collections.abc import Callable

from checkpoint.core.early import Part
from checkpoint.core.pages import PAGE_BYTES, Ask, Due, Hurry, Space, pieces
from checkpoint.core.pagewire import GET, HURRY, NOW, SOON, Request
from checkpoint.memory import uffd

CHANGING_SECONDS = 0.0001
"""Its call goes on once it has a processor again, which may be the one that we have: asking without a pause, a thread
that goes before others (`checkpoint.memory.urgency`) would keep it for 0.95 s (sched(7), sched_rt_runtime_us)."""


class Process:
    """`pid` is the PID, at the source, whose memory it wants: a child that was forked since then wants its parent's."""

    def __init__(self, number: int, pid: int, fd: int, space: Space) -> None:
        self.number, self.pid, self.fd, self.space = number, pid, fd, space
        self.on_fault: Callable[[Process, int], None] = _nothing
        self.on_fork: Callable[[int, int, Space], None] = _nothing
        """A child: the PID whose memory it wants, its userfaultfd, and its address space."""

    def take_events(self) -> None:
        """What it has done since."""
        for event in uffd.events(self.fd):
            match event.kind:
                case uffd.Kind.PAGEFAULT:
                    self.on_fault(self, event.b - event.b % PAGE_BYTES)
                case uffd.Kind.FORK:
                    self.on_fork(self.pid, event.a & 0xFFFFFFFF, self.space.forked())
                case uffd.Kind.REMAP:
                    self.space.remapped(event.a, event.b, event.c)
                    uffd.wake(self.fd, event.a, event.a + event.c)
                case uffd.Kind.REMOVE:
                    uffd.unregister(self.fd, event.a, event.b)
                    self._removed(event.a, event.b)
                case uffd.Kind.UNMAP:
                    self._removed(event.a, event.b)

    def _removed(self, start: int, end: int) -> None:
        """Whoever waits for it gets no page of ours: it is the kernel's, or another's, or an end by a signal."""
        self.space.removed(start, end)
        uffd.wake(self.fd, start, end)

    def fault(self, address: int) -> list[Request]:
        """Somebody waits for this page: what to say. Nothing, where it is on its way, or was zeros and is there now."""
        match self.space.fault(address):
            case Ask() as ask:
                return [self.request(ask, NOW), *(self.request(near, SOON) for near in self.space.near(address))]
            case Hurry(asked):
                return [self.request(asked, HURRY)]
            case Due.ZERO:
                self._insist(lambda: self._zero(address))
        return []

    def outstanding(self) -> list[Request]:
        """To be said again over another connection."""
        return [self.request(ask, NOW if awaited else GET) for ask, awaited in self.space.outstanding()]

    def request(self, ask: Ask, kind: int = GET) -> Request:
        return Request(kind, self.pid, self.number, ask.number, ask.image, ask.size)

    def put(self, number: int, body: int, present: int) -> None:
        """Put an answer where it belongs now. Its body, the pages of `present`, is at our address `body`."""
        if self.space.is_asked(number):
            self._insist(lambda: self._put(number, body, present))
            self.space.done(number)

    def _put(self, number: int, body: int, present: int) -> None:
        """Raises Gone and Changing; then it may be done again, for what is there stays."""
        for part in self.space.arrived(number):
            for one in pieces(part, present):
                if one.offset is None:
                    uffd.zero(self.fd, one.address, one.size)
                else:
                    uffd.copy(self.fd, one.address, body + one.offset, one.size)

    def fill(self, part: Part, store: int) -> None:
        """Put what was kept, at our address `store`, where it was at the snapshot; what is wanted there no more is left
        out. The zeros between are there: nobody has put anything else there."""
        self._insist(lambda: self._fill(part, store))
        self.space.filled(part.image, part.image + part.size)

    def _fill(self, part: Part, store: int) -> None:
        """Raises Gone and Changing; then it may be done again, for what is there stays."""
        for start, end in self.space.unmoved(part.image, part.image + part.size):
            for image, offset, size in part.pages:
                first, last = max(start, image), min(end, image + size)
                if first < last:
                    uffd.copy(self.fd, first, store + offset + first - image, last - first)

    def _zero(self, address: int) -> None:
        """All of its neighbours as well: who takes new memory into use takes more of it. Raises Gone and Changing."""
        start, end = self.space.never_written(address)
        uffd.zero(self.fd, start, end - start)

    def _insist(self, act: Callable[[], None]) -> None:
        """Do it as soon as the process holds still for it; never, where it has ended."""
        while True:
            try:
                return act()
            except uffd.Changing:
                self.take_events()
                time.sleep(CHANGING_SECONDS)
            except uffd.Gone:
                self.space = Space(())
                return None


def _nothing(*_: object) -> None:
    pass
