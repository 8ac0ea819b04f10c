"""Datagrams in a flow's stream: what a UDP socket of the workload's gets and says, one record after the other.

    record   u8 4 or 6   peer's address   u16 port   workload's address   u16 length   payload      (big-endian)

Towards the workload the peer is the sender, towards the peer the receiver. Nothing is longer than UDP allows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address

import msgspec

from proxy.api import Endpoint

_PORT = struct.Struct("!H")
_SIZES = {4: 4, 6: 16}


class Datagram(msgspec.Struct, frozen=True):
    peer: Endpoint
    app: str
    """The workload's address, of the same family."""
    payload: bytes


class BadRecord(Exception):
    """The stream is not one of records."""


def encode(one: Datagram) -> bytes:
    peer, app = ip_address(one.peer.host), ip_address(one.app)
    head = bytes([peer.version]) + peer.packed + _PORT.pack(one.peer.port) + app.packed
    return head + _PORT.pack(len(one.payload)) + one.payload


class Decoder:
    """Takes bytes in any pieces, gives whole datagrams. It keeps less than one record."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Datagram]:
        """Raises BadRecord; the decoder is of no more use then."""
        self._buffer += data
        at = 0
        while found := self._parse(at):
            one, at = found
            yield one
        del self._buffer[:at]

    def _parse(self, at: int) -> tuple[Datagram, int] | None:
        buffer = self._buffer
        if at == len(buffer):
            return None
        size = _SIZES.get(buffer[at])
        if size is None:
            raise BadRecord(f"a record of kind {buffer[at]}")
        head = at + 1 + 2 * size + 4
        if len(buffer) < head:
            return None
        (length,) = _PORT.unpack_from(buffer, head - 2)
        if len(buffer) < head + length:
            return None
        (port,) = _PORT.unpack_from(buffer, at + 1 + size)
        peer = str(ip_address(bytes(buffer[at + 1 : at + 1 + size])))
        app = str(ip_address(bytes(buffer[head - 2 - size : head - 2])))
        return Datagram(Endpoint(peer, port), app, bytes(buffer[head : head + length])), head + length
