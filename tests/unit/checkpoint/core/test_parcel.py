"""The frames that images travel in: what is written is read again, and nothing else is."""

from __future__ import annotations

import msgspec
import pytest

from checkpoint.core import parcel as wire
from checkpoint.core.errors import AgentError, Code, problem
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.core.parcel import Header, Parcel, Piece

ONE = Parcel(7, 2, (Piece("pages-1.img", CHUNK_BYTES, 5, True), Piece("empty.img", 0, 0, True)))


def reread(raw: bytes) -> tuple[Header, Parcel]:
    header = wire.decode_header(raw[: wire.HEADER_BYTES])
    return header, wire.decode(header, raw[wire.HEADER_BYTES :])


def test_a_parcel_is_read_as_it_was_written():
    header, parcel = reread(wire.encode(ONE, 5, packed=False))
    assert (parcel, header.wire_bytes, header.flags) == (ONE, 5, 0)
    header, parcel = reread(wire.encode(ONE, 3, packed=True))
    assert (parcel, header.wire_bytes, header.flags) == (ONE, 3, wire.PACKED)


@pytest.mark.parametrize(
    "change",
    [
        {"flags": 2},
        {"wire_bytes": 4},
        {"plain_bytes": CHUNK_BYTES + 1, "wire_bytes": CHUNK_BYTES + 1},
        {"flags": 1, "wire_bytes": wire.MAX_WIRE_BYTES + 1},
        {"table_bytes": 1 << 31},
    ],
)
def test_a_header_that_no_source_says_is_refused(change):
    good = Header(0, 0, 1, 30, 5, 5)
    wire.decode_header(wire._HEADER.pack(wire.VERSION, *good))
    with pytest.raises(AgentError, match="no parcel") as caught:
        wire.decode_header(wire._HEADER.pack(wire.VERSION, *good._replace(**change)))
    assert caught.value.code is Code.BAD_REQUEST


def test_another_version_is_named():
    with pytest.raises(AgentError, match="version 9"):
        wire.decode_header(wire._HEADER.pack(9, *Header(0, 0, 1, 30, 5, 5)))


@pytest.mark.parametrize(
    "pieces",
    [
        [["../x", 0, 5, False]],
        [["", 0, 5, False]],
        [[".hidden", 0, 5, False]],
        [["a/b", 0, 5, False]],
        [["a", -1, 5, False]],
        [["a", 1 << 50, 5, False]],
        [["a", 0, 4, False]],
        [["a", 0, 5, False, 1]],
        [["a", 0, 5, False]] + [["b", 0, 0, True]] * wire.MAX_PIECES,
        7,
    ],
)
def test_a_table_that_no_source_says_is_refused(pieces):
    with pytest.raises(AgentError, match="no parcel") as caught:
        wire.decode(Header(0, 0, 1, 0, 5, 5), msgspec.msgpack.encode(pieces))
    assert caught.value.code is Code.BAD_REQUEST


def test_answers():
    assert wire.decode_answer(wire.arrived(9)) == (wire.ARRIVED, 9)
    full = problem(Code.NO_SPACE, "full")
    raw = wire.refused(full)
    kind, size = wire.decode_answer(raw[: wire.ANSWER_BYTES])
    assert (kind, size) == (wire.REFUSED, len(raw) - wire.ANSWER_BYTES)
    assert wire.decode_refusal(raw[wire.ANSWER_BYTES :]) == full


@pytest.mark.parametrize("raw", [wire._ANSWER.pack(3, 1), wire._ANSWER.pack(wire.REFUSED, 1 << 20)])
def test_what_is_no_answer_is_refused(raw):
    with pytest.raises(AgentError, match="no answer"):
        wire.decode_answer(raw)
    with pytest.raises(AgentError, match="no answer"):
        wire.decode_refusal(b"{}")
