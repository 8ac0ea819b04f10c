from __future__ import annotations

import pytest

from proxy.core.stream import (
    HEADER,
    HEADER_BYTES,
    MAX_DATA_BYTES,
    WINDOW_BYTES,
    Incoming,
    Mark,
    Outgoing,
    header,
)
from proxy.core.wire import Fault, WireError


def data(payload: bytes, acknowledged: int = 0) -> bytes:
    return header(Mark.DATA, len(payload), acknowledged) + payload


def keep(outgoing: Outgoing, payload: bytes) -> memoryview:
    frame = memoryview(data(payload))
    outgoing.keep(frame, len(payload))
    return frame


def missing(outgoing: Outgoing, received: int) -> list[bytes | Mark]:
    return [piece if isinstance(piece, Mark) else bytes(piece) for piece in outgoing.since(received)]


def test_what_is_not_acknowledged_is_kept() -> None:
    outgoing = Outgoing()
    first, second = keep(outgoing, b"hello "), keep(outgoing, b"world")
    assert outgoing.room == WINDOW_BYTES - 11
    assert missing(outgoing, 0) == [b"hello ", b"world"]
    assert missing(outgoing, 4) == [b"o ", b"world"]
    assert missing(outgoing, 11) == []
    assert outgoing.acknowledge(8) == [first]
    assert outgoing.acknowledge(7) == []
    assert missing(outgoing, 8) == [b"rld"]
    assert (outgoing.unacknowledged, outgoing.room) == (3, WINDOW_BYTES - 3)
    assert outgoing.drop() == [second]
    assert missing(outgoing, 11) == []


@pytest.mark.parametrize("received", [1, 9])
def test_an_end_that_lost_bytes_it_had_acknowledged_or_made_some_up_is_not_believed(received: int) -> None:
    outgoing = Outgoing()
    keep(outgoing, b"12345678")
    outgoing.acknowledge(2)
    with pytest.raises(WireError) as raised:
        outgoing.since(received)
    assert raised.value.fault is Fault.OFFSET
    with pytest.raises(WireError):
        outgoing.acknowledge(9)


def test_ends_take_an_offset_each_and_are_said_again_like_bytes() -> None:
    outgoing = Outgoing()
    outgoing.keep(data(b"ab"), 2)
    outgoing.close(Mark.END)
    outgoing.close(Mark.END)
    assert (outgoing.given, outgoing.payload, outgoing.room) == (3, 2, 0)
    assert missing(outgoing, 1) == [b"b", Mark.END]
    assert outgoing.acknowledge(3) == []  # short frames are copies, which nobody wants back
    assert outgoing.over
    assert outgoing.unacknowledged == 0
    outgoing.close(Mark.RESET)
    outgoing.close(Mark.END)
    assert not outgoing.over
    assert missing(outgoing, 3) == [Mark.RESET]
    assert outgoing.drop() == []


def test_bytes_come_out_of_whatever_pieces_they_came_in() -> None:
    sent = data(b"hello") + header(Mark.ACK, 0, 7) + data(b" world", 5) + header(Mark.END, 0, 6)
    for size in range(1, len(sent) + 1):
        incoming, got = Incoming(), b""
        for start in range(0, len(sent), size):
            got += b"".join(incoming.take(memoryview(sent)[start : start + size]))
        assert got == b"hello world"
        assert (incoming.received, incoming.payload, incoming.acknowledged) == (12, 11, 7)
        assert incoming.mark is Mark.END
        assert not incoming.handed_on


def test_another_connection_begins_with_a_header() -> None:
    incoming = Incoming()
    incoming.take(memoryview(data(b"hello")[:-2]))
    incoming.restart()
    incoming.take(memoryview(header(Mark.ACK, 0, 0)[:3]))
    incoming.restart()
    assert b"".join(incoming.take(memoryview(data(b"lo")))) == b"lo"
    assert incoming.received == 5


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (HEADER.pack(0, 0), Fault.KIND),
        (HEADER.pack(8 << 24, 0), Fault.KIND),
        (header(Mark.FREE, 0, 0) + header(Mark.ACK, 0, 0), Fault.ORDER),
        (header(Mark.SLEEP, 0, 0) + data(b"x"), Fault.ORDER),
        (header(Mark.END, 0, 0) + 2 * header(Mark.FREE, 0, 0), Fault.ORDER),
        (header(Mark.END, 0, 0) + header(Mark.FREE, 0, 0) + b"M", Fault.ORDER),
        (HEADER.pack(Mark.ACK << 24 | 1, 0), Fault.LENGTH),
        (header(Mark.DATA, 0, 0), Fault.LENGTH),
        (header(Mark.DATA, MAX_DATA_BYTES + 1, 0), Fault.LENGTH),
        (2 * header(Mark.END, 0, 0), Fault.ORDER),
        (header(Mark.RESET, 0, 0) + header(Mark.END, 0, 0), Fault.ORDER),
        (header(Mark.END, 0, 0) + data(b"x"), Fault.ORDER),
        (5 * data(bytes(MAX_DATA_BYTES)), Fault.FLOOD),
    ],
)
def test_what_makes_no_sense_is_refused(sent: bytes, fault: Fault) -> None:
    with pytest.raises(WireError) as raised:
        Incoming().take(memoryview(sent))
    assert raised.value.fault is fault


def test_a_reset_may_follow_the_end() -> None:
    incoming = Incoming()
    incoming.take(memoryview(header(Mark.END, 0, 0) + header(Mark.RESET, 0, 0)))
    assert (incoming.mark, incoming.received) == (Mark.RESET, 2)


def test_a_header_has_the_length_it_says() -> None:
    assert HEADER_BYTES == len(header(Mark.ACK, 0, 0)) == 12
