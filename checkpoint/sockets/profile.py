"""Every option of a connection that somebody may have set: to make its like before the freeze, and to see inside it
what has been changed since."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Container, Sequence
from contextlib import suppress
from itertools import starmap
from socket import SocketType

from checkpoint.core import sockopts
from checkpoint.core.sockopts import Option, SocketOption
from checkpoint.kernel import Kernel

_INT = struct.Struct("=i")
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33  # asm-generic/socket.h
_FORCED = {sockopts.SEND_BUFFER.number: _SNDBUFFORCE, sockopts.RECEIVE_BUFFER.number: _RCVBUFFORCE}
_TCP_ULP = 31  # linux/tcp.h
_SO_PEERNAME = 28  # asm-generic/socket.h
_ADDRESS_BYTES: dict[int, int] = {socket.AF_INET: 16, socket.AF_INET6: 28}  # struct sockaddr_in, sockaddr_in6
_F_GETOWN_EX, _OWNER_AT, _OWNER_BYTES = 16, 4, 8  # asm-generic/fcntl.h: struct f_owner_ex, a kind and a number
"""F_GETOWN gives a process group as a negative number, which Python takes for an error."""
_INFO_OPTIONS, _STAMPED, _STAMP_BYTES = 5, 1, 12  # linux/tcp.h, tcpi_options; K: TCPOLEN_TSTAMP_ALIGNED

Values = list[bytes]


class Profile:
    """Of the connections of one address family, as this kernel knows them."""

    def __init__(self, family: int) -> None:
        wanted = [*sockopts.EVERY, *sockopts.STREAM, *sockopts.SAVED]
        if family == socket.AF_INET6:
            wanted += [*sockopts.IPV6, *sockopts.SAVED_IPV6]
        known: dict[SocketOption, bytes] = {}
        with socket.socket(family, socket.SOCK_STREAM) as fresh:
            for one in (*wanted, *sockopts.LATE):
                with suppress(OSError):
                    known[one] = fresh.getsockopt(one.level, one.number, one.length)
        self._options = list(known)
        self._watched = [one for one in known if one.name not in sockopts.INERT]
        self._asked = [(one.level, one.number, one.length) for one in self._options]
        self._asked_watched = [(one.level, one.number, one.length) for one in self._watched]
        self._fresh: Values = list(known.values())

    def read(self, sock: SocketType) -> Values:
        """About 40 us."""
        return list(starmap(sock.getsockopt, self._asked))

    def differing(self, values: Values) -> list[Option]:
        """What has to be set of a socket that was just made, in whichever pod, to be `write`n in this order."""
        return _to_set(self._options, values, self._fresh, also=sockopts.PODS_OWN)

    def watched(self, values: Values) -> Values:
        """Those among them that an application may set to some effect of a connection that is established."""
        return [value for one, value in zip(self._options, values, strict=True) if one.name not in sockopts.INERT]

    def read_watched(self, sock: SocketType) -> Values:
        """Those alone, as they are now. About 25 us."""
        return list(starmap(sock.getsockopt, self._asked_watched))

    def changed(self, values: Values, since: Values) -> list[Option]:
        """What is to be set of those watched, likewise."""
        return _to_set(self._watched, values, since)


def _to_set(options: Sequence[SocketOption], values: Values, others: Values, also: Container[str] = ()) -> list[Option]:
    """The options that differ, those that setting them changes, and `also` some, by name. What is switched off comes
    first: a kind of timestamps takes the other kinds with it (K: sock.c, __sock_set_timestamps)."""
    now = dict(zip(options, values, strict=True))
    found = {one for one, other in zip(now, others, strict=True) if now[one] != other or one.name in also}
    if found & {sockopts.SEND_BUFFER, sockopts.RECEIVE_BUFFER}:
        found.add(sockopts.BUFFER_LOCK)
    if sockopts.TOS in found:
        found.add(sockopts.PRIORITY)
    ordered = sorted((one for one in now if one in found), key=lambda one: (_lateness(one), any(now[one])))
    return [(one.name, one.level, one.number, now[one].hex()) for one in ordered]


def _lateness(one: SocketOption) -> int:
    return sockopts.LATE.index(one) + 1 if one in sockopts.LATE else 0


def write(sock: SocketType, options: Sequence[Option]) -> None:
    """Set them. Raises OSError."""
    for _, level, number, value in options:
        raw = bytes.fromhex(value)
        if level == sockopts.SOL_SOCKET and number in _FORCED:
            (size,) = _INT.unpack(raw)
            sock.setsockopt(level, _FORCED[number], size // 2)  # the kernel doubles it (socket(7))
        else:
            sock.setsockopt(level, number, raw)


def is_plain(kernel: Kernel, sock: SocketType, flags: int) -> bool:
    """Whether a connection has nothing but its options: nobody who gets its signals (fcntl(2), F_SETOWN, O_ASYNC), no
    packet filter, no protocol on top as kernel TLS, and no device of its own. `flags` are those of open(2)."""
    return not (
        flags & os.O_ASYNC
        or any(fcntl.fcntl(sock.fileno(), _F_GETOWN_EX, bytes(_OWNER_BYTES))[_OWNER_AT:])
        or upper_protocol(sock)
        or sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).strip(b"\0")
        or kernel.has_filter(sock)
    )


def upper_protocol(sock: SocketType) -> bytes:
    """The name of what works on top of a connection: "tls" for kernel TLS; b"" as a rule."""
    return sock.getsockopt(socket.IPPROTO_TCP, _TCP_ULP, 16).rstrip(b"\0")


def segment_size(sock: SocketType) -> int:
    """The most that goes into one segment, options of TCP's own included (K: tcp_output.c, tcp_mtu_to_mss)."""
    options = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[_INFO_OPTIONS]
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) + _STAMP_BYTES * (options & _STAMPED)


def peer_of(sock: SocketType) -> bytes:
    """The other end's address and port, as the kernel has them; also of a connection that has ended meanwhile, which
    getpeername(2) does not say."""
    return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERNAME, _ADDRESS_BYTES[sock.family])


def is_peer(family: int, known: bytes, port: bytes, address: bytes, address6: bytes) -> bool:
    """Whether the other end that `peer_of` gave has this port, and this address of its family."""
    if family == socket.AF_INET:
        return known[2:8] == port + address  # struct sockaddr_in
    return known[2:4] == port and known[8:24] == address6  # struct sockaddr_in6


def flags_of(sock: SocketType) -> int:
    """Of open(2), as fcntl(2) gives them."""
    return fcntl.fcntl(sock.fileno(), fcntl.F_GETFL)


def set_flags(sock: SocketType, flags: int) -> None:
    fcntl.fcntl(sock.fileno(), fcntl.F_SETFL, flags & ~os.O_ACCMODE)
