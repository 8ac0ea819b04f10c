"""The data path: bytes from one socket to another, both ways, on plain non-blocking sockets.

One `Pump` is one direction. It reads into a buffer shared by all pumps and sends from it at once; what the target does
not take is kept (at most one read), and the source is not read again until that is gone. So memory is bounded, TCP
carries the push-back through to the sender, and one callback moves at most one buffer: no flow starves the others.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from proxy.io.poller import Poller

SCRATCH_BYTES = 256 * 1024
"""One read: with 64 KiB bulk throughput is a third lower, with more the caches are left. It is also what one direction
of a stuck flow may keep in memory."""

_LINGER_RESET = struct.pack("ii", 1, 0)
_LINGER_OFF = struct.pack("ii", 0, 0)


class Scratch:
    """The buffer all pumps of a loop read into; only ever in use within one callback."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SCRATCH_BYTES))


class Pump:
    """One direction. `ended` is called once, after the last byte before the FIN has been handed to the target;
    `failed` once, with True if it was the source that failed. After either the pump does nothing more by itself."""

    __slots__ = (
        "_ended",
        "_failed",
        "_flushed",
        "_kept",
        "_poller",
        "_reading",
        "_running",
        "_scratch",
        "_source",
        "_target",
        "moved",
    )

    def __init__(
        self,
        poller: Poller,
        scratch: Scratch,
        source: socket.socket,
        target: socket.socket,
        ended: Callable[[], None],
        failed: Callable[[bool], None],
    ) -> None:
        self._poller = poller
        self._scratch = scratch.view
        self._source = source
        self._target = target
        self._ended = ended
        self._failed = failed
        self._flushed: Callable[[], None] | None = None
        self._kept = b""
        self._reading = False
        self._running = False
        self.moved = 0
        """Bytes handed to the target."""

    @property
    def kept_bytes(self) -> int:
        return len(self._kept)

    @property
    def running(self) -> bool:
        return self._running

    def start(self, preface: bytes = b"") -> None:
        """Begin; `preface` is what the source has sent already, together with its last frame."""
        self._running = True
        if preface:
            self._send(memoryview(preface))
        if self._running and not self._kept:
            self._read(True)

    def retire(self, flushed: Callable[[], None]) -> None:
        """Read no more; let go and call `flushed` when the target has taken what was read."""
        if self._running and self._kept:
            self._flushed = flushed
        else:
            self.stop()
            flushed()

    def stop(self) -> None:
        """Let go of both sockets; they are the caller's to close."""
        self._running = False
        self._read(False)
        if self._kept:
            self._kept = b""
            self._poller.write(self._target, None)

    def _read(self, wanted: bool) -> None:
        if wanted == self._reading:
            return
        self._reading = wanted
        self._poller.read(self._source, self._readable if wanted else None)

    def _readable(self) -> None:
        try:
            size = self._source.recv_into(self._scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._fail(True)
            return
        if size:
            self._send(self._scratch[:size])
        else:
            self.stop()
            self._ended()

    def _send(self, view: memoryview) -> None:
        try:
            sent = self._target.send(view)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._fail(False)
            return
        self.moved += sent
        if sent == len(view):
            return
        self._read(False)
        if not self._kept:
            self._poller.write(self._target, self._writable)
        self._kept = bytes(view[sent:])

    def _writable(self) -> None:
        kept = self._kept
        try:
            sent = self._target.send(kept)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._fail(False)
            return
        self.moved += sent
        self._kept = kept[sent:]
        if self._kept:
            return
        self._poller.write(self._target, None)
        if self._flushed:
            self.stop()
            self._flushed()
        else:
            self._read(True)

    def _fail(self, source: bool) -> None:
        self.stop()
        self._failed(source)


def reset(sock: socket.socket) -> None:
    """Close with RST: linger on, for no time (man 7 socket, SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    sock.close()


def close_on_death(sock: socket.socket) -> None:
    """Should this process be killed, the other end gets a reset: the FIN of a half-delivered stream would be a lie."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def end(sock: socket.socket) -> None:
    """Close in order: what is on its way is the kernel's to deliver. Said twice, done once."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        sock.close()


def finish(sock: socket.socket) -> None:
    """Send FIN. A socket whose other end is gone already has nothing to end."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return


def make_ready(sock: socket.socket) -> None:
    """A socket for a pump: no blocking, no Nagle, no cork, no lingering close, woken by the first byte.

    An adopted socket brings whatever the application had set on it.
    """
    sock.setblocking(False)
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
