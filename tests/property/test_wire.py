"""Any frames, cut into any pieces, come back whole; any bytes at all raise nothing but the closed set."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.api import Endpoint
from proxy.core.wire import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    VERSION,
    Accepted,
    Challenge,
    Decoder,
    Frame,
    Hello,
    Join,
    Open,
    Refused,
    Resume,
    Switch,
    WireError,
    encode,
)

addresses = st.one_of(st.ip_addresses(v=4).map(IPv4Address), st.ip_addresses(v=6).map(IPv6Address)).map(str)
endpoints = st.builds(Endpoint, addresses, st.integers(0, 65535))
numbers = st.integers(0, 2**64 - 1)
names = st.text(min_size=1, max_size=32)
words = st.text(max_size=16)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, names, st.binary(min_size=32, max_size=32)),
    st.builds(Challenge, st.binary(min_size=32, max_size=32)),
    st.builds(Join, numbers, numbers),
    st.builds(Switch, numbers, numbers),
    st.builds(Resume, numbers, numbers, numbers),
    st.builds(Open, numbers, numbers, endpoints, endpoints),
    st.builds(Accepted, numbers),
    st.builds(Refused, words, words),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


@given(st.lists(frames, min_size=1, max_size=4), st.binary(max_size=64), st.lists(st.integers(0, 5000), max_size=8))
def test_any_cut_gives_the_same_frames_and_the_same_rest(sent: list[Frame], tail: bytes, cuts: list[int]) -> None:
    decoder, got, rest = Decoder(), [], b""
    for piece in pieces(b"".join(map(encode, sent)) + tail, cuts):
        decoder.feed(piece)
        while len(got) < len(sent) and (frame := decoder.next()):
            got.append(frame)
        if len(got) == len(sent):
            rest += decoder.rest()
    assert got == sent
    assert rest == tail


@given(st.binary(max_size=2 * MAX_PAYLOAD_BYTES), st.booleans())
def test_any_bytes_raise_only_the_closed_set(data: bytes, framed: bool) -> None:
    decoder = Decoder()
    decoder.feed(b"MIDS" + bytes([VERSION]) + data if framed else data)
    try:
        while decoder.next():
            pass
    except WireError:
        return
    assert len(decoder.rest()) < HEADER.size + MAX_PAYLOAD_BYTES


@given(st.integers(0, 255), st.binary(max_size=MAX_PAYLOAD_BYTES))
def test_any_payload_is_a_frame_or_an_error(kind: int, payload: bytes) -> None:
    decoder = Decoder()
    decoder.feed(HEADER.pack(b"MIDS", VERSION, kind, len(payload)) + payload)
    try:
        frame = decoder.next()
    except WireError:
        return
    assert frame is not None
    assert decoder.rest() == b""
