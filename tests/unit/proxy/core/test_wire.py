from __future__ import annotations

import struct

import pytest

from proxy.api import Endpoint
from proxy.core.wire import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    VERSION,
    Accepted,
    Bell,
    Challenge,
    Decoder,
    Fault,
    Frame,
    Hello,
    Join,
    Kind,
    Open,
    Refused,
    Resume,
    Switch,
    Watch,
    WireError,
    encode,
)

FRAMES: list[Frame] = [
    Hello("migration-1", bytes(range(32))),
    Hello("ü" * 64, bytes(32)),
    Challenge(bytes(range(32))),
    Join(2**48 - 1, 2**64 - 1),
    Switch(2**48 - 1, 0),
    Resume(7, 8, 2**64 - 1),
    Watch(),
    Bell(0, 2**64 - 1),
    Open(7, 8, Endpoint("10.1.2.3", 40000), Endpoint("fd00::1", 7000)),
    Accepted(),
    Accepted(2**64 - 1),
    Refused("conflict", "no flow 7 waits for a link"),
    Refused("", ""),
]


def decode(data: bytes) -> tuple[list[Frame], bytes]:
    decoder = Decoder()
    decoder.feed(data)
    frames = []
    while frame := decoder.next():
        frames.append(frame)
    return frames, decoder.rest()


def fault_of(data: bytes) -> Fault:
    with pytest.raises(WireError) as raised:
        decode(data)
    return raised.value.fault


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_a_frame_comes_back(frame: Frame) -> None:
    assert decode(encode(frame)) == ([frame], b"")


def test_frames_follow_each_other_and_the_rest_is_payload() -> None:
    decoder = Decoder()
    decoder.feed(encode(FRAMES[0]) + encode(Join(1, 2)) + b"MIDSummer night")
    assert decoder.next() == FRAMES[0]
    assert decoder.next() == Join(1, 2)
    assert decoder.rest() == b"MIDSummer night"
    assert decoder.rest() == b""


def test_byte_by_byte() -> None:
    decoder = Decoder()
    data = encode(FRAMES[3])
    for byte in data[:-1]:
        decoder.feed(bytes([byte]))
        assert decoder.next() is None
    decoder.feed(data[-1:])
    assert decoder.next() == FRAMES[3]


def test_a_long_refusal_is_cut() -> None:
    (frame,), _ = decode(encode(Refused("c" * 100, "t" * 1000)))
    assert frame == Refused("c" * 64, "t" * 400)


@pytest.mark.parametrize("data", [b"G", b"MIDX", b"GET / HTTP/1.1\r\n\r\n", bytes(100)])
def test_garbage_is_known_by_its_first_bytes(data: bytes) -> None:
    assert fault_of(data) is Fault.MAGIC


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ((b"MIDS", 1, Kind.HELLO, 0), Fault.VERSION),
        ((b"MIDS", VERSION, Kind.HELLO, MAX_PAYLOAD_BYTES + 1), Fault.LENGTH),
        ((b"MIDS", VERSION, 11, 0), Fault.KIND),
        ((b"MIDS", VERSION, 0, 0), Fault.KIND),
    ],
)
def test_bad_headers(header: tuple[bytes, int, int, int], fault: Fault) -> None:
    assert fault_of(HEADER.pack(*header)) is fault


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.HELLO, bytes(32)),
        (Kind.HELLO, bytes(31)),
        (Kind.HELLO, bytes(32) + b"\xff"),
        (Kind.HELLO, bytes(32) + b"m" * 129),
        (Kind.CHALLENGE, bytes(31)),
        (Kind.JOIN, bytes(15)),
        (Kind.JOIN, bytes(17)),
        (Kind.RESUME, bytes(23)),
        (Kind.OPEN, bytes(16)),
        (Kind.OPEN, bytes(16) + struct.pack("!HB", 1, 200) + b"10.0.0.1"),
        (Kind.OPEN, bytes(16) + 2 * (struct.pack("!HB", 1, 4) + b"name")),
        (Kind.OPEN, bytes(16) + 2 * (struct.pack("!HB", 1, 8) + b"10.0.0.1") + b"?"),
        (Kind.ACCEPTED, b"?"),
        (Kind.REFUSED, b""),
        (Kind.REFUSED, b"\x05code"),
        (Kind.REFUSED, b"\x41" + b"c" * 65),
        (Kind.REFUSED, b"\x01\xff"),
    ],
)
def test_bad_payloads(kind: Kind, payload: bytes) -> None:
    assert fault_of(HEADER.pack(b"MIDS", VERSION, kind, len(payload)) + payload) is Fault.PAYLOAD


def test_what_the_other_side_would_refuse_is_not_sent() -> None:
    nameless = Open(1, 1, Endpoint("name", 1), Endpoint("::1", 1))
    for frame in (Hello("", bytes(32)), Hello("m" * 200, bytes(32)), nameless):
        with pytest.raises(WireError) as raised:
            encode(frame)
        assert raised.value.fault is Fault.PAYLOAD


def test_an_error_says_what_is_wrong() -> None:
    assert str(WireError(Fault.MAGIC)) == "not a Midstream link"
