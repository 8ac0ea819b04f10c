"""One of a transfer's connections, at the source: a thread that sends parcels and hears what arrived.

It reads answers between two parcels, and lets no more than a window be unanswered: that is all the back-pressure there
is, beside TCP's own. When its connection breaks, what was unanswered goes back, and it dials again, until the transfer
is stopped because the hold has ended, or nobody listens there any more: then the agent at the other end has died.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Self

import zstandard

from checkpoint import aligned
from checkpoint.core import parcel as wire
from checkpoint.core.errors import AgentError, Code, from_problem
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.core.parcel import Parcel, Piece
from checkpoint.transfer.shipment import Shipment

WINDOW = 16
"""Parcels that may be unanswered: 16 MiB a stream fill 100 MiB/s at a round trip of 160 ms."""

SLICE_BYTES = 64 << 10
"""So much is read from a file, then encrypted: it is in the processor's cache still. By the megabyte both ends of a
transfer took 1.25 to 1.29 times the processor of a plain TLS socket, and take 1.19 to 1.22 times that."""

_HEAD_BYTES = wire.HEADER_BYTES + wire.MAX_PIECES * 300

NOBODY_SECONDS = 2.0
"""So long a port may refuse connections before its agent counts as dead: it does not listen again under this one."""
_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0

_LOG = logging.getLogger(__name__)

_TIMES = struct.Struct("@QQQ")
_TIMES_AT = 168
"""tcpi_busy_time, tcpi_rwnd_limited and tcpi_sndbuf_limited of struct tcp_info, in microseconds (Linux 4.10)."""

Dial = Callable[[], ssl.SSLSocket]


class Stream:
    """Its thread lives until everything has arrived or the shipment is stopped."""

    def __init__(self, number: int, folder: str, shipment: Shipment, dial: Dial) -> None:
        self._folder, self._shipment, self._dial = folder, shipment, dial
        self._buffer = aligned.room(CHUNK_BYTES, _HEAD_BYTES)
        self._packer = zstandard.ZstdCompressor(level=1)
        self._unanswered: deque[int] = deque()
        self._connection: ssl.SSLSocket | None = None
        self._on_the_wire = 0.0
        """Of this connection, as `wire_seconds` last said."""
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"send images {number}", daemon=True)

    def connect(self) -> None:
        """The first time: raises OSError."""
        self._connection = self._dial()

    def start(self) -> None:
        self._thread.start()

    def hang_up(self) -> None:
        """Wake the thread wherever it waits for its peer; the shipment has been stopped before."""
        with self._guard:
            if self._connection is not None:
                shut(self._connection)

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()
        self._close()

    def _run(self) -> None:
        try:
            while not self._serve():
                self._shipment.lost(self._unanswered)
                self._unanswered.clear()
                self._connect_again()
        except AgentError as error:
            self._shipment.stop(error)
        except Exception as error:
            _LOG.exception("a stream of images ended")
            self._shipment.stop(AgentError(Code.INTERNAL, f"{type(error).__name__}: {error}"))
        finally:
            self._close()

    def _serve(self) -> bool:
        """True when there is nothing more to do; False when the connection broke. Raises AgentError."""
        assert self._connection is not None
        try:
            while (parcel := self._next()) is not None:
                self._send(self._connection, parcel)
                while len(self._unanswered) >= WINDOW or (self._unanswered and says_something(self._connection)):
                    self._hear(self._connection)
        except OSError as error:
            self._shipment.check()
            _LOG.info("the connection that images go by broke: %s", error)
            return False
        return True

    def _next(self) -> Parcel | None:
        assert self._connection is not None
        while self._unanswered:
            if (parcel := self._shipment.next(patiently=False)) is not None:
                return parcel
            self._hear(self._connection)
        return self._shipment.next(patiently=True)

    def _send(self, connection: ssl.SSLSocket, parcel: Parcel) -> None:
        compressing = parcel.size > 0 and self._shipment.wants_compression()
        # Closed at once: why the connection broke is kept, and with it what this call has open.
        with contextlib.closing(self._parts(parcel, CHUNK_BYTES if compressing else SLICE_BYTES)) as parts:
            self._send_parts(connection, parcel, parts, compressing=compressing)

    def _send_parts(
        self, connection: ssl.SSLSocket, parcel: Parcel, parts: Iterator[memoryview], *, compressing: bool
    ) -> None:
        try:
            first = next(parts)
        except AgentError:
            if self._shipment.is_wanted(parcel):
                raise
            return  # its file is gone, as it should be
        packed, packing_seconds = self._packed(first) if compressing else (None, 0.0)
        wire_bytes = parcel.size if packed is None else len(packed)
        head = wire.encode(parcel, wire_bytes, packed=packed is not None)
        self._unanswered.append(parcel.number)
        waited = self._shipment.throttle(len(head) + wire_bytes)
        if packed is None:
            # In one piece: small ones go out in one packet.
            start = _HEAD_BYTES - len(head)
            self._buffer[start:_HEAD_BYTES] = head
            connection.sendall(self._buffer[start : _HEAD_BYTES + len(first)])
            for part in parts:
                connection.sendall(part)
        else:
            connection.sendall(head + packed)
        before, self._on_the_wire = self._on_the_wire, wire_seconds(connection)
        self._shipment.went(parcel.size, wire_bytes, packing_seconds, waited + self._on_the_wire - before)

    def _parts(self, parcel: Parcel, most: int) -> Generator[memoryview, None, None]:
        """Its bytes: of a single piece no more than `most` at a time, each in the place of the last; at least one."""
        plain = self._buffer[_HEAD_BYTES : _HEAD_BYTES + parcel.size]
        if len(parcel.pieces) == 1 and parcel.size > most:
            yield from self._slices(plain[:most], parcel.pieces[0])
            return
        at = 0
        for piece in parcel.pieces:
            if piece.size:
                with _Image(f"{self._folder}/{piece.name}") as file:
                    file.read(plain[at : at + piece.size], piece.offset)
                at += piece.size
        yield plain

    def _slices(self, into: memoryview, piece: Piece) -> Iterator[memoryview]:
        with _Image(f"{self._folder}/{piece.name}") as file:
            for at in range(0, piece.size, len(into)):
                part = into[: piece.size - at]
                file.read(part, piece.offset + at)
                yield part

    def _packed(self, plain: memoryview) -> tuple[bytes | None, float]:
        began = time.monotonic()
        packed = self._packer.compress(plain)
        seconds = time.monotonic() - began
        return (packed if len(packed) < len(plain) else None), seconds

    def _hear(self, connection: ssl.SSLSocket) -> None:
        kind, number = wire.decode_answer(exactly(connection, wire.ANSWER_BYTES))
        if kind == wire.REFUSED:
            raise from_problem(wire.decode_refusal(exactly(connection, number)))
        if number != self._unanswered[0]:
            raise AgentError(Code.BAD_REQUEST, f"the destination answers for parcel {number} out of its turn")
        self._unanswered.popleft()
        self._shipment.arrived(number)

    def _connect_again(self) -> None:
        """Raises AgentError when stopped, or when nobody listens."""
        self._close()
        connection = self._dial_patiently()
        with self._guard:
            self._connection, self._on_the_wire = connection, 0.0
        if self._shipment.stopped:  # in between: nobody will hang this one up
            self.hang_up()

    def _dial_patiently(self) -> ssl.SSLSocket:
        pause, refused_since = _PAUSE_SECONDS, None
        while True:
            self._shipment.check()
            try:
                return self._dial()
            except OSError as error:
                now = time.monotonic()
                refused_since = (refused_since or now) if isinstance(error, ConnectionRefusedError) else None
                if refused_since is not None and now - refused_since > NOBODY_SECONDS:
                    words = "nobody takes the images at the destination any more: its agent has ended"
                    raise AgentError(Code.TRANSFER_BROKEN, words) from error
            self._shipment.pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _close(self) -> None:
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def exactly(sock: ssl.SSLSocket, size: int) -> bytes:
    """Raises OSError, for an end of the stream too."""
    got = b""
    while len(got) < size:
        more = sock.recv(size - len(got))
        if not more:
            raise ConnectionResetError("the other end hung up")
        got += more
    return got


def says_something(sock: socket.socket) -> bool:
    """Whether the other end has said something that is not read yet. A refusal is not waited for until the window is
    full: that may take minutes where there is a limit."""
    looking = select.poll()  # not select(2): an agent may have more descriptors than that knows
    looking.register(sock, select.POLLIN)
    return bool(looking.poll(0))


def wire_seconds(sock: socket.socket) -> float:
    """For how long bytes have been under way that neither the receiver nor our own buffer kept waiting (K: tcp.h,
    struct tcp_info): what a call took says nothing where the ends have too little processor."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TIMES_AT + _TIMES.size)
    busy, receiver, buffer = map(int, _TIMES.unpack_from(raw, _TIMES_AT))
    return (busy - receiver - buffer) / 1e6


def shut(sock: socket.socket) -> None:
    """Wake whoever waits for this socket, in another thread."""
    # Not SSLSocket's own, which takes the session away from a thread that is using it.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Image:
    """A file that is read, as a context manager. Raises AgentError IMAGE_DAMAGED."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreadable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, into: memoryview, offset: int) -> None:
        try:
            got = os.preadv(self._fd, [into], offset)
        except OSError as error:
            raise self._unreadable(error) from error
        if got != len(into):
            raise AgentError(Code.IMAGE_DAMAGED, f"the image {self._path} became shorter while it was sent")

    def _unreadable(self, error: OSError) -> AgentError:
        return AgentError(Code.IMAGE_DAMAGED, f"the image {self._path} cannot be sent: {error.strerror}")
