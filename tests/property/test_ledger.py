"""The ledger of a socket that is only counted: whatever happened between snapshot and adoption, the books agree."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import Code, ProxyError
from proxy.core.ledger import CIRCLE, HALF, Live, Snapshot, TcpState, held_since, mirror, signed

sequences = st.integers(0, CIRCLE - 1)
lengths = st.integers(0, 1 << 24)
windows = st.integers(0, 1 << 28)


@st.composite
def flows(draw: Any) -> tuple[Snapshot, Live, int]:
    """An image, the socket some bytes later, and how many they were."""
    start, unread, arrived = draw(sequences), draw(lengths), draw(lengths)
    state = draw(st.sampled_from([s for s in TcpState if s in (1, 4, 5, 7, 8, 9, 11)]))
    fin = state in (8, 9, 11) or (state == 7 and draw(st.booleans()))
    outq_seq = draw(sequences)
    live = Live(
        state=state,
        tcp_options=7,
        snd_wscale=7,
        rcv_wscale=7,
        mss=1448,
        timestamp=1,
        write_seq=outq_seq,
        rcv_nxt=(start + arrived + fin) % CIRCLE,
        snd_wl1=draw(sequences),
        snd_wnd=draw(windows),
        max_window=draw(windows),
        rcv_wnd=draw(windows),
        rcv_wup=(start + arrived + fin - draw(lengths)) % CIRCLE,
        unread=unread + arrived,
    )
    return Snapshot(start, unread, outq_seq, draw(lengths)), live, arrived


@given(flows())
def test_what_arrived_is_what_is_held(flow: tuple[Snapshot, Live, int]) -> None:
    snapshot, live, arrived = flow
    assert held_since(snapshot, live) == arrived


@given(flows(), st.integers(1, HALF - 1))
def test_a_byte_written_after_the_snapshot_is_found(flow: tuple[Snapshot, Live, int], more: int) -> None:
    snapshot, live, _ = flow
    with pytest.raises(ProxyError) as raised:
        held_since(snapshot, msgspec.structs.replace(live, write_seq=(live.write_seq + more) % CIRCLE))
    assert raised.value.code is Code.LEDGER_VIOLATED


@given(flows(), st.integers(2, 1 << 24))
def test_a_byte_read_after_the_snapshot_is_found(flow: tuple[Snapshot, Live, int], gone: int) -> None:
    """Two at least: of a socket that is closed nobody can tell whether the one number was a FIN's."""
    snapshot, live, _ = flow
    with pytest.raises(ProxyError) as raised:
        held_since(snapshot, msgspec.structs.replace(live, unread=live.unread - gone))
    assert raised.value.code is Code.LEDGER_VIOLATED


@given(flows())
def test_the_mirror_is_what_the_kernel_takes(flow: tuple[Snapshot, Live, int]) -> None:
    """K: tcp_repair_set_window: max_window >= snd_wnd, snd_wl1 <= rcv_nxt + rcv_wnd, rcv_wup <= rcv_nxt."""
    snapshot, live, _ = flow
    ends = mirror(snapshot, live)
    assert ends.max_window >= ends.snd_wnd
    assert signed(ends.rcv_seq + ends.rcv_wnd - ends.snd_wl1) >= 0
    assert signed(ends.rcv_seq - ends.rcv_wup) >= 0
    assert ends.snd_seq == snapshot.inq_seq
    assert signed(snapshot.outq_seq - ends.rcv_seq) in (0, 1)


@given(sequences, st.integers(-HALF, HALF - 1))
def test_a_difference_survives_the_circle(start: int, difference: int) -> None:
    assert signed((start + difference) % CIRCLE - start) == difference
