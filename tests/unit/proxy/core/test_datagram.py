from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api import Endpoint
from proxy.core.datagram import BadRecord, Datagram, Decoder, encode

DATAGRAMS = st.builds(
    lambda ends, port, payload: Datagram(Endpoint(str(ends[0]), port), str(ends[1]), payload),
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)) | st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
    st.integers(0, 65535),
    st.binary(max_size=40),
)


@given(st.lists(DATAGRAMS, max_size=5), st.integers(1, 30))
def test_whatever_the_chunks_the_same_datagrams_come_out(said: list[Datagram], size: int) -> None:
    raw, decoder = b"".join(map(encode, said)), Decoder()
    heard = [one for at in range(0, len(raw), size) for one in decoder.feed(raw[at : at + size])]
    assert heard == said
    assert not decoder._buffer


def test_an_empty_datagram_is_one() -> None:
    empty = Datagram(Endpoint("10.0.0.1", 53), "10.0.0.2", b"")
    assert list(Decoder().feed(encode(empty))) == [empty]


def test_garbage_is_refused() -> None:
    with pytest.raises(BadRecord, match="kind 71"):
        list(Decoder().feed(b"GET /"))
