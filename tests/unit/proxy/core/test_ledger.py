from __future__ import annotations

import msgspec
import pytest

from proxy.core.errors import Code, ProxyError
from proxy.core.ledger import CIRCLE, Live, Snapshot, TcpState, held_since, mirror, modular, signed, whole

SNAPSHOT = Snapshot(inq_seq=1000, inq_len=100, outq_seq=5000, outq_len=70)
LIVE = Live(
    state=TcpState.ESTABLISHED,
    tcp_options=7,
    snd_wscale=7,
    rcv_wscale=9,
    mss=1448,
    timestamp=42,
    write_seq=5000,
    rcv_nxt=1000,
    snd_wl1=990,
    snd_wnd=4000,
    max_window=6000,
    rcv_wnd=3000,
    rcv_wup=900,
    unread=100,
)


def live(**changes: int) -> Live:
    return msgspec.structs.replace(LIVE, **changes)


def refused(snapshot: Snapshot, now: Live) -> ProxyError:
    with pytest.raises(ProxyError) as raised:
        held_since(snapshot, now)
    return raised.value


def test_nothing_since_the_snapshot() -> None:
    assert held_since(SNAPSHOT, LIVE) == 0


def test_bytes_since_the_snapshot_are_held() -> None:
    assert held_since(SNAPSHOT, live(rcv_nxt=1300, unread=400)) == 300


def test_sequence_numbers_go_round() -> None:
    snapshot = Snapshot(inq_seq=CIRCLE - 50, inq_len=10, outq_seq=3, outq_len=70)
    assert held_since(snapshot, live(write_seq=3, rcv_nxt=250, unread=310)) == 300


@pytest.mark.parametrize("state", [TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.CLOSING])
def test_a_received_fin_takes_a_number_and_no_byte(state: TcpState) -> None:
    assert held_since(SNAPSHOT, live(state=state, rcv_nxt=1301, unread=400)) == 300
    assert refused(SNAPSHOT, live(state=state, rcv_nxt=1300, unread=400)).code is Code.LEDGER_VIOLATED


@pytest.mark.parametrize("state", [TcpState.FIN_WAIT1, TcpState.FIN_WAIT2])
def test_a_sent_fin_changes_nothing_on_the_way_in(state: TcpState) -> None:
    assert held_since(SNAPSHOT, live(state=state, rcv_nxt=1300, unread=400)) == 300


@pytest.mark.parametrize("fins", [0, 1])
def test_a_socket_reset_since_may_have_had_a_fin_or_not(fins: int) -> None:
    assert held_since(SNAPSHOT, live(state=TcpState.CLOSE, rcv_nxt=1300 + fins, unread=400)) == 300
    assert refused(SNAPSHOT, live(state=TcpState.CLOSE, rcv_nxt=1302, unread=400)).code is Code.LEDGER_VIOLATED


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (live(write_seq=5007), "wrote 7 bytes after"),
        (live(rcv_nxt=999), "1 bytes behind"),
        (live(rcv_nxt=1300, unread=399), "399 bytes are unread"),
        (live(rcv_nxt=1300, unread=401), "401 bytes are unread"),
        (live(unread=99), "99 bytes are unread"),
        (live(rcv_nxt=900, unread=0), "behind"),
    ],
)
def test_books_that_do_not_balance(now: Live, words: str) -> None:
    error = refused(SNAPSHOT, now)
    assert error.code is Code.LEDGER_VIOLATED
    assert words in error.message


@pytest.mark.parametrize("state", [TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.LISTEN, TcpState.TIME_WAIT, 12])
def test_a_socket_in_another_state_is_no_flow(state: int) -> None:
    assert refused(SNAPSHOT, live(state=state)).code is Code.SOCKET_UNUSABLE


def test_what_is_offered_is_what_the_last_window_leaves() -> None:
    assert LIVE.offered == 2900
    assert live(rcv_nxt=3900).offered == 0
    assert live(rcv_nxt=4000).offered == 0
    assert live(rcv_wup=CIRCLE - 100, rcv_nxt=100, rcv_wnd=1000).offered == 800


def test_the_mirror_swaps_what_each_side_may_send() -> None:
    ends = mirror(SNAPSHOT, live(rcv_nxt=1300))
    assert (ends.snd_seq, ends.rcv_seq) == (1000, 5000)
    assert (ends.snd_wscale, ends.rcv_wscale) == (9, 7)
    assert (ends.snd_wnd, ends.rcv_wnd, ends.max_window) == (3000, 4000, 6000)
    assert (ends.snd_wl1, ends.rcv_wup) == (4999, 5000)


def test_the_mirror_keeps_the_kernels_inequalities() -> None:
    ends = mirror(SNAPSHOT, live(rcv_wnd=9000))
    assert ends.max_window >= ends.snd_wnd


@pytest.mark.parametrize("state", [TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.LAST_ACK, TcpState.CLOSE])
def test_a_sent_fin_is_to_be_sent_again(state: TcpState) -> None:
    """Also of a connection that the peer has ended, too, since the snapshot."""
    ended = msgspec.structs.replace(SNAPSHOT, fin_sent=True)
    assert mirror(ended, live(state=state)).rcv_seq == 4999


def test_the_circle() -> None:
    assert modular(CIRCLE + 5) == 5
    assert mirror(Snapshot(0, 0, 0, 0), LIVE).snd_wl1 == CIRCLE - 1
    assert (signed(1), signed(CIRCLE - 1), signed(-1), signed(CIRCLE // 2)) == (1, -1, -1, -CIRCLE // 2)


EMPTY = Snapshot(inq_seq=1448, inq_len=0, outq_seq=5000, outq_len=70)


@pytest.mark.parametrize("later", [0, 52])
def test_bytes_that_came_while_criu_looked_are_held(later: int) -> None:
    """CRIU saw an empty queue, then 448 bytes came, then it saw where the queue ends."""
    now = live(rcv_nxt=1448 + later, unread=448 + later)
    assert refused(EMPTY, now).code is Code.LEDGER_VIOLATED
    assert whole(EMPTY, now).inq_seq == 1000
    assert held_since(whole(EMPTY, now), now) == 448 + later


@pytest.mark.parametrize("unread", [0, 448])
def test_a_fin_that_came_while_criu_looked_is_seen_again(unread: int) -> None:
    torn = msgspec.structs.replace(EMPTY, inq_seq=1001 + unread)
    now = live(state=TcpState.CLOSE_WAIT, rcv_nxt=1001 + unread, unread=unread)
    assert whole(torn, now).inq_seq == 1000
    assert held_since(whole(torn, now), now) == unread


def test_they_may_lie_across_the_end_of_the_circle() -> None:
    torn = msgspec.structs.replace(EMPTY, inq_seq=100)
    assert whole(torn, live(rcv_nxt=100, unread=448)).inq_seq == CIRCLE - 348


@pytest.mark.parametrize(
    "now",
    [live(rcv_nxt=1448, unread=0), live(rcv_nxt=1500, unread=52), live(rcv_nxt=1500, unread=10), live(rcv_nxt=1000)],
)
def test_a_whole_snapshot_stays_and_so_does_one_that_nothing_explains(now: Live) -> None:
    assert whole(EMPTY, now) is EMPTY


def test_where_criu_read_the_queue_it_has_noticed() -> None:
    assert whole(SNAPSHOT, live(rcv_nxt=1000, unread=300)) is SNAPSHOT
