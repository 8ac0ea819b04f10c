"""The data path: bytes from a leg to a link and from a link to a leg, on plain non-blocking sockets.

`Giver` is one direction: it reads the leg into a buffer shared by all, behind room for a frame's header, and gives that
to the link, which sends it at once. When the link has no more room the leg is not read, and TCP carries the push-back
through to the sender. `Taker` is the other one. One callback moves at most one buffer: no flow starves the others.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from proxy.core.stream import HEADER_BYTES, MAX_DATA_BYTES
from proxy.io.poller import Poller, of_no_interest
from proxy.sys import options

SCRATCH_BYTES = MAX_DATA_BYTES
"""One read: with 64 KiB bulk throughput is a third lower, with more the caches are left."""
COPY_BYTES = 32 * 1024
"""What is given and has to be kept is copied if it is so short; a longer one keeps the buffer it was read into."""
BODY_OFFSET = 64
"""Where in a page the body begins, with room for the header before it. AMD's Zen 3 copies at a fifth of its speed
(`rep movsb`, the kernel's way) to where source and destination all but agree modulo a page, and the kernel's end is a
page's beginning, as a rule: a `bytearray` as long as this begins 16 bytes behind one."""
MAX_SPARE = 32
_MAX_PIECES = 1024
"""In one sendmsg(2): UIO_MAXIOV."""

_LINGER_RESET = struct.pack("ii", 1, 0)
_LINGER_OFF = struct.pack("ii", 0, 0)


class Scratch:
    """The buffer that all sockets of a loop are read into; only ever in use within one callback.

    A link keeps it until its bytes are acknowledged; then it comes back, and is the next one: still in the cache.
    """

    def __init__(self) -> None:
        self._spare: list[mmap.mmap] = []
        self._renew()

    def _renew(self) -> None:
        block = self._spare.pop() if self._spare else mmap.mmap(-1, BODY_OFFSET - HEADER_BYTES + SCRATCH_BYTES)
        self.view = memoryview(block)[BODY_OFFSET - HEADER_BYTES :]
        self.body = self.view[HEADER_BYTES:]
        """Behind room for a frame's header."""

    def keep(self, size: int) -> bytes | memoryview:
        """The first `size` bytes, for longer than this callback."""
        kept = self.view[:size]
        if size <= COPY_BYTES:
            return bytes(kept)
        self._renew()
        return kept

    def give_back(self, frames: Iterable[memoryview]) -> None:
        for frame in frames:
            if isinstance(frame.obj, mmap.mmap) and len(self._spare) < MAX_SPARE:
                self._spare.append(frame.obj)


class Room(Protocol):
    """What a giver gives to: a link."""

    @property
    def has_room(self) -> bool: ...
    def give(self, size: int) -> bool: ...


class Leg(Protocol):
    """What a taker hands on to: a socket that does not block, or what stands for one."""

    def fileno(self) -> int: ...
    def send(self, data: memoryview, /) -> int: ...
    def sendmsg(self, pieces: list[memoryview], /) -> int: ...


class Giver:
    """From a leg to a link. `ended` is called once, after the last byte before the FIN was given; `failed` once. After
    either it does nothing more by itself."""

    __slots__ = ("_ended", "_failed", "_leg", "_link", "_poller", "_reading", "_scratch", "running")

    def __init__(
        self,
        poller: Poller,
        scratch: Scratch,
        leg: socket.socket,
        link: Room,
        ended: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._poller = poller
        self._scratch = scratch
        self._leg = leg
        self._link = link
        self._ended = ended
        self._failed = failed
        self._reading = False
        self.running = False

    def start(self) -> None:
        self.running = True
        self.go_on()

    def go_on(self) -> None:
        """The link may have room again."""
        if self.running and not self._reading and self._link.has_room:
            self._read(True)

    def stop(self) -> None:
        """Let go of the leg; it is the caller's to close."""
        self.running = False
        self._read(False)

    def _read(self, wanted: bool) -> None:
        if wanted == self._reading:
            return
        self._reading = wanted
        self._poller.read(self._leg, self._readable if wanted else None)

    def _readable(self) -> None:
        if not self._link.has_room:  # since it was said that there is: the link had something else to send
            self._read(False)
            return
        try:
            size = self._leg.recv_into(self._scratch.body)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.stop()
            self._failed()
            return
        if not size:
            self.stop()
            self._ended()
        elif not self._link.give(size):
            self._read(False)


class Taker:
    """From a link to a leg: what the leg does not take, or there is no leg for yet, is kept, at most a window."""

    __slots__ = ("_backlog", "_failed", "_handed", "_leg", "_poller", "_writing", "discarding", "error", "moved")

    def __init__(self, poller: Poller, handed: Callable[[int], None]) -> None:
        self._poller = poller
        self._handed = handed
        self._failed: Callable[[], None] | None = None
        self._leg: Leg | None = None
        self._backlog: list[memoryview] = []
        self._writing = False
        self.discarding = False
        """The leg takes no more: what comes is dropped."""
        self.error = 0
        """Why it takes no more (errno)."""
        self.moved = 0
        """Bytes handed to the leg."""

    def start(self, leg: Leg, failed: Callable[[], None]) -> None:
        """Hand on to this leg from now on, and first what has come already."""
        self._leg, self._failed = leg, failed
        if self._backlog:
            self._write()

    def stop(self) -> None:
        """Let go of the leg; what is left, and what still comes, is for nobody."""
        self._write_when_possible(False)
        self._leg = self._failed = None
        self.discarding = True
        if left := sum(map(len, self._backlog)):
            self._backlog.clear()
            self._handed(left)

    def cut(self) -> None:
        """It was stopped, and nothing will come any more: `handed` is not called again."""
        self._handed = of_no_interest

    def take(self, pieces: list[memoryview]) -> None:
        """The pieces are good for the time of the call only."""
        if self.discarding:
            self._handed(sum(map(len, pieces)))
            return
        leg = self._leg
        if leg is None or self._backlog:
            self._backlog += [memoryview(bytes(piece)) for piece in pieces]
            return
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        sent = self._send(leg, pieces)
        if sent < 0:
            self._handed(size)
            return
        if sent < size:
            self._backlog += [memoryview(bytes(piece)) for piece in _behind(pieces, sent)]
            self._write_when_possible(True)
        self._handed(sent)

    def _send(self, leg: Leg, pieces: list[memoryview]) -> int:
        """How many bytes the leg took; -1: it has failed."""
        try:
            sent = leg.send(pieces[0]) if len(pieces) == 1 else leg.sendmsg(pieces[:_MAX_PIECES])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.error = error.errno or 0
            if self._failed:
                self._failed()
            self.stop()  # afterwards: with what is dropped the stream may end, and the leg's failure comes first
            return -1
        self.moved += sent
        return sent

    def _write_when_possible(self, wanted: bool) -> None:
        if wanted != self._writing and self._leg:
            self._writing = wanted
            self._poller.write(self._leg, self._write if wanted else None)

    def _write(self) -> None:
        while (leg := self._leg) and self._backlog:
            pieces = self._backlog[:_MAX_PIECES]
            sent = self._send(leg, pieces)
            if sent < 0:
                return
            self._backlog[: len(pieces)] = _behind(pieces, sent)
            self._write_when_possible(bool(self._backlog))  # before it is told: then the leg may be another link's
            self._handed(sent)
            if sent < sum(map(len, pieces)):
                return


def _behind(pieces: Iterable[memoryview], count: int) -> Iterator[memoryview]:
    """What is left of the pieces without their first `count` bytes."""
    for piece in pieces:
        if count < len(piece):
            yield piece[count:]
        count = max(0, count - len(piece))


def reset(sock: socket.socket) -> None:
    """Close with RST: linger on, for no time (man 7 socket, SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    sock.close()


def finish(sock: socket.socket) -> None:
    """Send FIN. A socket whose other end is gone already has nothing to end."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return


def make_ready(sock: socket.socket) -> None:
    """A socket for a pump: no blocking, no Nagle, no cork, no lingering close, no notices, woken by the first byte.

    An adopted socket brings whatever the application had set on it.
    """
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, options.SO_TIMESTAMPING, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def discard(sock: socket.socket, count: int, scratch: Scratch) -> int:
    """Drop the next `count` readable bytes without copying them (MSG_TRUNC, man 7 tcp); gives how many there were."""
    left = count
    while left:
        try:
            dropped = sock.recv_into(scratch.view, min(left, SCRATCH_BYTES), socket.MSG_TRUNC | socket.MSG_DONTWAIT)
        except OSError:
            break
        if not dropped:
            break
        left -= dropped
    return count - left
