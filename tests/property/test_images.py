"""Edits of images for any numbers: only what has to change does, and the result reads back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.core import flows, readdress
from checkpoint.core.readdress import Numbers
from checkpoint.images.folder import Images
from tests.harness import made_images as made

u32 = st.integers(0, (1 << 32) - 1)
movable = st.sampled_from(sorted(flows.MOVABLE))
octets = st.binary(min_size=4, max_size=4)


@given(movable, u32, u32, u32, u32, st.binary(max_size=200), st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_a_stream_keeps_its_unread_bytes_and_loses_its_unsent_ones(state, inq, outq, window, wup, unread, unsent):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = made.stream(
            {"inq_seq": inq, "inq_len": len(unread), "outq_seq": outq, "outq_len": len(unsent), "rcv_wnd": window,
             "rcv_wup": wup, "unsq_len": len(unsent)}
        )  # fmt: skip
        made.write(folder, "tcp-stream-ab", [entry], unread + unsent)
        stream = Images(folder, made.MESSAGES).stream(0xAB)
        stream.write(readdress.without_unsent(readdress.without_fins(state, stream.numbers)))
        again = Images(folder, made.MESSAGES).stream(0xAB)
    assert (again.unread, again.entry.outq_len, again.entry.unsq_len) == (unread, 0, 0)
    received, sent = state in readdress.FIN_RECEIVED, state in readdress.FIN_SENT
    wrap = 1 << 32
    assert again.numbers == Numbers(
        (inq - received) % wrap,
        len(unread),
        (outq - sent) % wrap,
        0,
        (window + received) % wrap,
        (wup - received) % wrap,
    )
    assert again.entry.mss_clamp == 1460


@given(st.sampled_from([1, 4]), octets, octets, movable)
@settings(max_examples=60, deadline=None)
def test_only_the_local_address_and_the_state_change(words, pod, peer, state):
    def of(raw: bytes) -> list[int]:
        padded = raw if words == 1 else bytes(10) + b"\xff\xff" + raw
        return [int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4)]

    mapping = {readdress.host_of(of(pod)): "192.0.2.77"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made.write(folder, "files", [made.inet(1, state, of(pod), 80, of(peer), 9)])
        Images(folder, made.MESSAGES).edit_sockets(mapping, [])
        (found,) = Images(folder, made.MESSAGES).sockets()
    assert found.local == ("192.0.2.77", 80)
    assert (list(found.destination), found.destination_port) == (of(peer), 9)
    assert found.state == readdress.ESTABLISHED


@given(u32)
@settings(max_examples=30, deadline=None)
def test_addresses_survive_the_way_to_text_and_back(word):
    assert readdress.words_of(readdress.host_of([word]), 1) == (word,)
