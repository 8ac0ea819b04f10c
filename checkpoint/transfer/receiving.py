"""The destination's end of a direct transfer: a listening socket of the migration's own, and a thread a connection."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import zstandard

from checkpoint import aligned
from checkpoint.core import parcel as wire
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.memory import channel, identity
from checkpoint.transfer import PURPOSE
from checkpoint.transfer.reserve import Reserve
from checkpoint.transfer.stream import exactly, shut
from checkpoint.transfer.unpacking import Unpacking

MAX_CONNECTIONS = 16
"""At once, those that have not shown their certificate yet among them: each has a buffer of a megabyte."""

SLICE_BYTES = 128 << 10
"""So much is taken from the connection, then written: it is in the processor's cache still. By the megabyte, two
streams' buffers pushed each other out of it, and all ends of a transfer took a fifth more of the processor."""

_HANGS_UP_SECONDS = 10.0
"""A source that says nothing for so long has not heard it."""

_LOG = logging.getLogger(__name__)


class Receiving:
    """One migration's. It has no end of its own: what has arrived is complete when the manifest says so."""

    def __init__(self, image_key: bytes, host: str, folder: Path, reserve: Reserve | None = None) -> None:
        """Listen on a free port of `host`, for whoever has the migration's key; what arrives takes the place of the
        `reserve`. Raises AgentError TRANSFER_BROKEN."""
        self._secured = channel.context(identity.make(image_key, PURPOSE), server=True)
        self._unpacking = Unpacking(folder, reserve)
        try:
            self._listener = channel.listen(host)
        except OSError as error:
            raise AgentError(Code.TRANSFER_BROKEN, f"the agent cannot listen at {host}: {error.strerror}") from error
        self.port: int = self._listener.getsockname()[1]
        self._guard = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        self._accepting = threading.Thread(target=self._accept, name="take images", daemon=True)
        self._accepting.start()

    async def close(self) -> None:
        """Take nothing any more; returns when nothing is being written."""
        if not self._closing:
            self._closing = True
            shut(self._listener)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        self._accepting.join()
        self._listener.close()
        with self._guard:
            threads = list(self._open.values())
            for sock in self._open:
                shut(sock)
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, peer = self._listener.accept()
            except OSError as error:
                if not self._closing:
                    _LOG.warning("a connection for images was not accepted: %s", error)
                continue
            thread = threading.Thread(target=self._serve, args=(sock,), name="take images from", daemon=True)
            with self._guard:
                if len(self._open) >= MAX_CONNECTIONS:
                    _LOG.warning("one connection too many for images, from %s", peer[0])
                    sock.close()
                    continue
                self._open[sock] = thread
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        connection: ssl.SSLSocket | None = None
        try:
            connection = channel.secure(raw.dup(), self._secured, server=True)
            _Taker(connection, self._unpacking).run()
        except OSError as error:
            if not self._closing:
                _LOG.warning("a connection with images ended: %s", error)
        except Exception:
            _LOG.exception("a connection with images ended")
        finally:
            with self._guard:
                del self._open[raw]
            raw.close()
            if connection is not None:
                connection.close()


class _Taker:
    """One connection's parcels, one after the other."""

    def __init__(self, connection: ssl.SSLSocket, unpacking: Unpacking) -> None:
        self._connection, self._unpacking = connection, unpacking
        self._buffer = aligned.room(wire.MAX_WIRE_BYTES)
        self._unpacker = zstandard.ZstdDecompressor()

    def run(self) -> None:
        """Until the source hangs up. Raises OSError."""
        try:
            while first := self._connection.recv(1):
                self._one(first)
        except AgentError as error:
            _LOG.warning("images are refused: %s", error)
            self._connection.sendall(wire.refused(error.problem))
            self._hear_out()

    def _hear_out(self) -> None:
        """Throw away what is on its way until the source hangs up: of a connection that is closed with bytes unread the
        kernel makes a reset, and the source would not hear what was said last, but that it broke. Raises OSError."""
        socket.socket.shutdown(self._connection, socket.SHUT_WR)
        self._connection.settimeout(_HANGS_UP_SECONDS)
        while self._connection.recv_into(self._buffer):
            pass

    def _one(self, first: bytes) -> None:
        header = wire.decode_header(first + exactly(self._connection, wire.HEADER_BYTES - 1))
        parcel = wire.decode(header, exactly(self._connection, header.table_bytes))
        packed = header.flags & wire.PACKED
        self._unpacking.take(parcel, [self._unpacked(header)] if packed else self._slices(header.wire_bytes))
        self._connection.sendall(wire.arrived(parcel.number))

    def _slices(self, size: int) -> Iterator[memoryview]:
        for start in range(0, size, SLICE_BYTES):
            yield self._filled(min(SLICE_BYTES, size - start))

    def _filled(self, size: int) -> memoryview:
        """The next bytes that come; they stay until the next call."""
        into = self._buffer[:size]
        at = 0
        while at < size:
            got = self._connection.recv_into(into[at:])
            if not got:
                raise ConnectionResetError("cut off in the middle of a parcel")
            at += got
        return into

    def _unpacked(self, header: wire.Header) -> memoryview:
        body, size = self._filled(header.wire_bytes), header.plain_bytes
        try:
            plain = self._unpacker.decompress(body, max_output_size=CHUNK_BYTES)
        except zstandard.ZstdError as error:
            raise AgentError(Code.BAD_REQUEST, f"no parcel of images: {error}") from error
        if len(plain) != size:
            raise AgentError(Code.BAD_REQUEST, f"no parcel of images: {len(plain)} bytes instead of {size}")
        return memoryview(plain)
