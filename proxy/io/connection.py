"""What a link's bytes go over: a TCP socket, or TLS on one, with the same few calls, none of which blocks."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD_BYTES = 16 * 1024
"""The most that one TLS record carries (RFC 8446, 5.1)."""
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

    def dialled(self, sock: socket.socket, host: str, session: ssl.SSLSession | None) -> TlsConnection:
        """The initiator's end; the certificate must be `host`'s."""
        return TlsConnection(
            self._client.wrap_socket(
                sock, do_handshake_on_connect=False, suppress_ragged_eofs=True, server_hostname=host, session=session
            )
        )

    def accepted(self, sock: socket.socket) -> TlsConnection:
        return TlsConnection(
            self._server.wrap_socket(sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True)
        )


def _context(protocol: int, folder: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(protocol)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(folder / "ca.pem")
    made.load_cert_chain(folder / "pod.pem", folder / "key.pem")
    return made


class TlsConnection:
    """TLS with the calls of a socket. A half-close is not TLS's here but the stream's: END (proxy.core.stream)."""

    __slots__ = ("_read", "_tls", "_write")

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        # Without the checks of recv_into() and send().
        self._read = cast("Callable[[int, memoryview], int]", tls.read)
        self._write = tls.write

    @property
    def session(self) -> ssl.SSLSession | None:
        """With it the next handshake is short; there once something has been read.

        None if this one's was short already: the old one is still good, and each copy keeps a certificate of its own.
        """
        return None if self._tls.session_reused else self._tls.session

    def handshake(self) -> bool | None:
        """One step. None: done; else what to wait for, True: to be written to. Raises OSError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            return True
        return None

    def fileno(self) -> int:
        return self._tls.fileno()

    def recv_into(self, view: memoryview, /) -> int:
        """Whole records, as long as full ones come: epoll does not announce what OpenSSL has taken already."""
        read, room = self._read, len(view)
        try:
            got: int = read(room, view)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        size = got
        while size == RECORD_BYTES and room - got >= RECORD_BYTES:
            try:
                size = read(room - got, view[got:])
            except ssl.SSLWantReadError:
                break
            got += size
        return got

    def recv(self, size: int, /) -> bytes:
        """`size` must have room for a record."""
        try:
            return self._tls.recv(max(size, RECORD_BYTES))
        except ssl.SSLWantReadError:
            raise BlockingIOError from None

    def send(self, data: bytes | memoryview, /) -> int:
        """As many records as go. What did not must be said again first, as it was: a record may have gone by half."""
        write, size = self._write, len(data)
        try:
            sent: int = write(data)
        except ssl.SSLWantWriteError:
            raise BlockingIOError from None
        if sent < size:  # a record has gone
            view = memoryview(data)
            with contextlib.suppress(ssl.SSLWantWriteError):
                while sent < size:
                    sent += write(view[sent:])
        return sent

    def shutdown(self, how: int, /) -> None:
        """Of the TCP connection: that the streams have ended was said by END, each in its record."""
        socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        self._tls.close()


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
