"""What a link's bytes go over: a TCP socket, or TLS on one, with the same few calls, none of which blocks."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD_BYTES = 16 * 1024
"""The most that one TLS record carries (RFC 8446, 5.1)."""
SEALED_BYTES = 64 * 1024
"""So much of TLS's is taken from TCP, or given to it, in one call: by itself OpenSSL takes a record in two, and gives
each in one. With more the processor's nearer caches are left."""
ROOM_BYTES = SEALED_BYTES + RECORD_BYTES
"""The most that comes at one go: behind the rest of a record."""
USER_TIMEOUT_SECONDS = 3.0
"""The other end reads always (proxy.core.stream), so what its kernel has not acknowledged by then met a broken link."""
PATIENT_TIMEOUT_SECONDS = 30.0
"""The acceptor's: it cannot dial, so it waits longer than the initiator, which it hears from as soon as it can."""


class Connection(Protocol):
    """As a non-blocking socket: BlockingIOError where it would have to wait, OSError when it is broken."""

    def fileno(self) -> int: ...
    def recv_into(self, view: memoryview, /) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class Tls:
    """What a pod shows to others, and what it wants to be shown: TLS 1.3, both ends with a certificate of one CA."""

    def __init__(self, folder: Path) -> None:
        """Reads `ca.pem`, `pod.pem` and `key.pem`. Raises OSError (ssl.SSLError is one)."""
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT, folder)
        self._client.check_hostname = True
        self._server = _context(ssl.PROTOCOL_TLS_SERVER, folder)
        self._server.num_tickets = 1
        self._tray = Tray()

    def dialled(self, sock: socket.socket, host: str, session: ssl.SSLSession | None) -> TlsConnection:
        """The initiator's end; the certificate must be `host`'s."""
        came, goes = self._tray.came, self._tray.goes
        return TlsConnection(sock, self._tray, self._client.wrap_bio(came, goes, False, host, session))

    def accepted(self, sock: socket.socket) -> TlsConnection:
        came, goes = self._tray.came, self._tray.goes
        return TlsConnection(sock, self._tray, self._server.wrap_bio(came, goes, True))


def _context(protocol: int, folder: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(protocol)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(folder / "ca.pem")
    made.load_cert_chain(folder / "pod.pem", folder / "key.pem")
    return made


class Tray:
    """What OpenSSL reads and writes in place of a socket.

    One for all connections, since it is empty between two calls: what has come is taken to the last byte (of a record
    that is not whole OpenSSL keeps the beginning), and so is what goes. One each would stay as large as it ever was.
    """

    __slots__ = ("came", "goes", "plain", "sealed")

    def __init__(self) -> None:
        self.came, self.goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.sealed = memoryview(bytearray(SEALED_BYTES))
        self.plain = memoryview(bytearray(ROOM_BYTES))

    def receive(self, sock: socket.socket) -> int:
        """What has come, for OpenSSL; 0: the end has. Raises OSError."""
        size = sock.recv_into(self.sealed)
        self.came.write(self.sealed[:size])
        return size

    def clear(self) -> None:
        """After an error."""
        self.came.read()
        self.goes.read()


class TlsConnection:
    """TLS with the calls of a socket. A half-close is not TLS's here but the stream's: END (proxy.core.stream)."""

    __slots__ = ("_read", "_sealed", "_sealed_plain", "_sock", "_tls", "_tray", "_write")

    def __init__(self, sock: socket.socket, tray: Tray, tls: ssl.SSLObject) -> None:
        """`tls` reads and writes what is on the tray."""
        self._sock = sock
        self._tray = tray
        self._tls = tls
        self._read = cast("Callable[[int, memoryview], int]", tls.read)
        self._write = tls.write
        self._sealed: bytes | memoryview = b""
        """What TCP has not taken yet,"""
        self._sealed_plain = 0
        """and how many bytes of the caller's have gone with it."""

    @property
    def session(self) -> ssl.SSLSession | None:
        """With it the next handshake is short; there once something has been read.

        None if this one's was short already: the old one is still good, and each copy keeps a certificate of its own.
        """
        return None if self._tls.session_reused else self._tls.session

    def handshake(self) -> bool:
        """One step. Whether it is done; else there has to be something to read first. Raises OSError."""
        tray = self._tray
        with contextlib.suppress(BlockingIOError):
            if not tray.receive(self._sock):
                raise ConnectionResetError(errno.ECONNRESET, "the other end hung up in the midst of the handshake")
        try:
            self._tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        except OSError:
            with contextlib.suppress(OSError):
                self._sock.send(tray.goes.read())  # why: an alert
            tray.clear()
            raise
        said = tray.goes.read()
        if tray.came.pending:
            tray.clear()
            raise OSError(errno.EPROTO, "something came before its turn")
        if said and self._sock.send(said) < len(said):
            raise OSError(errno.EPIPE, "a handshake was taken by half")  # a few kilobytes, by an empty send buffer
        return done

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv_into(self, view: memoryview, /) -> int:
        """All that comes at one go; `view` must have room for `ROOM_BYTES`."""
        tray, read, room, got = self._tray, self._read, len(view), 0
        if not tray.receive(self._sock):
            return 0
        came = tray.came
        try:
            got = read(room, view)
            while came.pending:
                if not (size := read(room - got, view[got:])):
                    tray.clear()  # behind TLS's own end
                got += size
        except ssl.SSLWantReadError:
            if not got:
                raise BlockingIOError from None
        except OSError:
            tray.clear()
            raise
        return got

    def recv(self, size: int, /) -> bytes:
        """All that comes at one go, whatever the size."""
        return bytes(self._tray.plain[: self.recv_into(self._tray.plain)])

    def send(self, data: bytes | memoryview, /) -> int:
        """As much as TCP takes. The rest must be said again first, as it was: it is sealed, and may be half gone."""
        sent, size = 0, len(data)
        while sent < size:
            if not self._sealed:
                self._seal(memoryview(data)[sent:] if sent else data)
            try:
                gone = self._sock.send(self._sealed)
            except (BlockingIOError, InterruptedError):
                gone = 0
            if gone < len(self._sealed):
                self._sealed = memoryview(self._sealed)[gone:]
                break
            self._sealed = b""
            sent += self._sealed_plain
        if not sent:
            raise BlockingIOError
        return sent

    def _seal(self, data: bytes | memoryview) -> None:
        """As much of it as is sent in one call; a record is written at a time."""
        write, size = self._write, min(len(data), SEALED_BYTES)
        try:
            sealed = write(data)
            if sealed < size:
                view = memoryview(data)
                while sealed < size:
                    sealed += write(view[sealed:])
        except OSError:
            self._tray.clear()
            raise
        self._sealed, self._sealed_plain = self._tray.goes.read(), sealed

    def shutdown(self, how: int, /) -> None:
        """Of the TCP connection: that the streams have ended was said by END, each in its record."""
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()


def link_socket(family: int) -> socket.socket:
    """The initiator's end: dead within seconds of a broken network, for it is the one who can dial again."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    tune(sock, USER_TIMEOUT_SECONDS, idle=5, interval=1, probes=3)
    return sock


def tune_accepted(sock: socket.socket) -> None:
    tune(sock, PATIENT_TIMEOUT_SECONDS, idle=30, interval=10, probes=3)


def tune(sock: socket.socket, timeout_seconds: float, idle: int, interval: int, probes: int) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_seconds * 1000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def why(error: OSError) -> str:
    """In words, TLS's too."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return error.strerror or str(error)
