"""What the two agents of a move say to each other while its images travel, inside TLS. Pure: bytes in, bytes out.

The source's agent sends **parcels**: pieces of files, a megabyte at most in all, so that a large file goes in many and
many small ones go in one. A parcel stands for itself: it may come again, and over any of the connections.

| who | message | bytes |
|---|---|---|
| source | PARCEL | header; table; the bytes of all pieces, as they are or compressed as one (zstd) |
| destination | ARRIVED | kind, number: all of that parcel is in its files |
| destination | REFUSED | kind, length, a `Problem` as JSON; then it hangs up |

The table says of each piece its file's name, where in it, how many bytes, and whether the file ends there.
`attempt` counts how often the folder was begun anew: what belongs to an earlier one is dropped, and the first parcel of
a later one empties the folder.
"""

from __future__ import annotations

import struct
from typing import Annotated, NamedTuple

import msgspec

from checkpoint.api import Problem
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import CHUNK_BYTES

VERSION = 1
PACKED = 1
"""Flag of a parcel: its bytes are compressed."""

MAX_PIECES = 1000
_MAX_TABLE_BYTES = MAX_PIECES * 300
_MAX_OFFSET = 1 << 50
_MAX_WORDS_BYTES = 16 << 10

_HEADER = struct.Struct(">BBHIIII")
_ANSWER = struct.Struct(">BI")
HEADER_BYTES = _HEADER.size
ANSWER_BYTES = _ANSWER.size
ARRIVED, REFUSED = 1, 2

MAX_WIRE_BYTES = CHUNK_BYTES + 64
"""What does not become shorter by compression is sent as it is."""

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}\Z")]
"""A file's name and nothing else: no folder, no way out of one, no hidden file."""


class Piece(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Some bytes of one file."""

    name: Name
    offset: Annotated[int, msgspec.Meta(ge=0, lt=_MAX_OFFSET)]
    size: Annotated[int, msgspec.Meta(ge=0, le=CHUNK_BYTES)]
    last: bool
    """The file ends here."""


class Parcel(NamedTuple):
    number: int
    attempt: int
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes of its pieces."""
        return sum(one.size for one in self.pieces)


class Header(NamedTuple):
    flags: int
    attempt: int
    number: int
    table_bytes: int
    plain_bytes: int
    wire_bytes: int
    """What follows the table."""


_TABLE = msgspec.msgpack.Decoder(tuple[Piece, ...])


def encode(parcel: Parcel, wire_bytes: int, *, packed: bool) -> bytes:
    """Header and table; `wire_bytes` more follow."""
    table = msgspec.msgpack.encode(parcel.pieces)
    flags = PACKED if packed else 0
    return _HEADER.pack(VERSION, flags, parcel.attempt, parcel.number, len(table), parcel.size, wire_bytes) + table


def decode_header(raw: bytes) -> Header:
    """Raises AgentError BAD_REQUEST for what no source says."""
    version, *rest = _HEADER.unpack(raw)
    one = Header(*rest)
    if version != VERSION:
        raise AgentError(Code.BAD_REQUEST, f"images come in version {version} of the protocol; this is {VERSION}")
    whole = one.wire_bytes == one.plain_bytes or one.flags == PACKED
    bounded = max(one.plain_bytes, one.wire_bytes - 64) <= CHUNK_BYTES and one.table_bytes <= _MAX_TABLE_BYTES
    if one.flags & ~PACKED or not whole or not bounded:
        raise AgentError(Code.BAD_REQUEST, f"no parcel of images: {one}")
    return one


def decode(header: Header, table: bytes) -> Parcel:
    """Raises AgentError BAD_REQUEST for what no source says."""
    try:
        parcel = Parcel(header.number, header.attempt, _TABLE.decode(table))
    except msgspec.DecodeError as error:
        raise AgentError(Code.BAD_REQUEST, f"no parcel of images: {error}") from error
    if parcel.size != header.plain_bytes or len(parcel.pieces) > MAX_PIECES:
        raise AgentError(Code.BAD_REQUEST, f"no parcel of images: {len(parcel.pieces)} pieces, {parcel.size} bytes")
    return parcel


def arrived(number: int) -> bytes:
    return _ANSWER.pack(ARRIVED, number)


def refused(problem: Problem) -> bytes:
    words = msgspec.json.encode(problem)[:_MAX_WORDS_BYTES]
    return _ANSWER.pack(REFUSED, len(words)) + words


def decode_answer(raw: bytes) -> tuple[int, int]:
    """The kind, and a parcel's number or how many bytes of words follow. Raises AgentError BAD_REQUEST."""
    kind, number = _ANSWER.unpack(raw)
    if kind not in (ARRIVED, REFUSED) or (kind == REFUSED and number > _MAX_WORDS_BYTES):
        raise AgentError(Code.BAD_REQUEST, f"no answer to a parcel: {kind}, {number}")
    return kind, number


def decode_refusal(raw: bytes) -> Problem:
    """Raises AgentError BAD_REQUEST."""
    try:
        return msgspec.json.decode(raw, type=Problem)
    except msgspec.DecodeError as error:
        raise AgentError(Code.BAD_REQUEST, f"no answer to a parcel: {error}") from error
