"""Sequence numbers are the truth: what the image says, what the live socket says, and whether they agree.

Numbers are TCP sequence numbers, so every sum is modulo 2**32 and "later" means less than half the circle ahead
(RFC 9293, 3.4). The image's numbers are CRIU's (soccr/soccr.c): `inq_seq` is rcv_nxt and `outq_seq` is write_seq at the
snapshot. A FIN counts one in either; `inq_seq` reaches us with a received FIN already subtracted, `outq_seq` does not.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from proxy.core.errors import Code, ProxyError

CIRCLE = 1 << 32
HALF = 1 << 31


class TcpState(IntEnum):
    """The kernel's numbers (include/net/tcp_states.h), as TCP_INFO's first byte has them."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


FIN_RECEIVED = frozenset({TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.CLOSING})
FIN_SENT = frozenset({TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.LAST_ACK, TcpState.CLOSING})
CARRIED = FIN_RECEIVED | FIN_SENT | {TcpState.ESTABLISHED, TcpState.CLOSE}
"""States in which a socket can be a flow. CLOSE is one that was reset after the snapshot: the workload learns of it."""


class Snapshot(msgspec.Struct, frozen=True):
    """A flow in the image."""

    inq_seq: int
    """Next byte expected from the peer."""
    inq_len: int
    """Bytes received and not read by the application: they travel in the image."""
    outq_seq: int
    """Next byte the application will write (one more if it has shut down its side)."""
    outq_len: int
    """Bytes written and not acknowledged: the peer leg delivers them."""
    fin_sent: bool = False
    """It has shut down its side: `outq_seq` counts that. (The live socket does not say so once it is closed.)"""
    unread: bytes = b""
    """Of a flow that is in no image: the `inq_len` bytes, which travel with its leg."""


class Live(msgspec.Struct, frozen=True):
    """The same flow's socket, read at adoption."""

    state: int
    tcp_options: int
    snd_wscale: int
    rcv_wscale: int
    mss: int
    timestamp: int
    write_seq: int
    rcv_nxt: int
    snd_wl1: int
    snd_wnd: int
    max_window: int
    rcv_wnd: int
    rcv_wup: int
    unread: int
    """SIOCINQ: bytes readable now, a FIN not counted."""

    @property
    def offered(self) -> int:
        """Bytes the peer may still send by the window it was offered last."""
        return max(0, signed(self.rcv_wup + self.rcv_wnd - self.rcv_nxt))


class Mirror(msgspec.Struct, frozen=True):
    """The numbers of the other end of a socket with nothing in flight."""

    snd_seq: int
    rcv_seq: int
    snd_wscale: int
    rcv_wscale: int
    snd_wl1: int
    snd_wnd: int
    max_window: int
    rcv_wnd: int
    rcv_wup: int


def modular(number: int) -> int:
    return number % CIRCLE


def signed(difference: int) -> int:
    """A difference of two sequence numbers, as the shorter way round: -2**31 to 2**31 - 1."""
    return (difference + HALF) % CIRCLE - HALF


def held_since(snapshot: Snapshot, live: Live) -> int:
    """Check the live socket against its image; give the bytes that came from the peer since the snapshot.

    Raises LEDGER_VIOLATED when the workload wrote, or somebody read, after the snapshot, and SOCKET_UNUSABLE when the
    socket is in a state that no flow is in.
    """
    if live.state not in CARRIED:
        raise ProxyError(Code.SOCKET_UNUSABLE, f"a socket in TCP state {live.state} is no flow")
    if live.write_seq != snapshot.outq_seq:
        written = signed(live.write_seq - snapshot.outq_seq)
        raise ProxyError(Code.LEDGER_VIOLATED, f"the workload wrote {written} bytes after the snapshot")
    received = signed(live.rcv_nxt - snapshot.inq_seq)
    if received < 0:
        raise ProxyError(Code.LEDGER_VIOLATED, f"the socket is {-received} bytes behind its image")
    held = live.unread - snapshot.inq_len
    if held < 0 or received - held not in _fins(live.state):
        raise ProxyError(
            Code.LEDGER_VIOLATED,
            f"{live.unread} bytes are unread where {snapshot.inq_len} in the image and {received} since make others",
        )
    return held


def whole(snapshot: Snapshot, live: Live) -> Snapshot:
    """The snapshot as it would be, had CRIU looked at everything in the same moment.

    It asks how many bytes are unread, and a little later where the receive queue ends (criu: soccr/soccr.c, refresh_sk,
    get_queue). What comes in between is in `inq_seq` and not in `inq_len`. Where bytes were unread before, CRIU reads
    them, and notices; where none were, it does not. The live socket says where the workload stopped reading, for good:
    it is stopped. Bytes from there on are the peer leg's to deliver.
    """
    fin = live.state in FIN_RECEIVED
    torn = live.unread + fin - signed(live.rcv_nxt - snapshot.inq_seq)
    if snapshot.inq_len or not 0 < torn <= live.unread + fin:
        return snapshot
    return msgspec.structs.replace(snapshot, inq_seq=modular(snapshot.inq_seq - torn))


def _fins(state: int) -> tuple[int, ...]:
    """How many sequence numbers a received FIN took; a socket that is closed no longer tells whether it got one."""
    if state == TcpState.CLOSE:
        return (0, 1)
    return (1,) if state in FIN_RECEIVED else (0,)


def mirror(snapshot: Snapshot, live: Live) -> Mirror:
    """The other end of the restored socket: what one may send is what the other may receive.

    A FIN the workload has sent is not counted as received: the restored socket sends it again, so that the app leg sees
    the end of the stream and passes it on (to a peer leg whose own FIN has gone already: nothing happens twice).
    """
    rcv_seq = modular(snapshot.outq_seq - snapshot.fin_sent)
    return Mirror(
        snd_seq=snapshot.inq_seq,
        rcv_seq=rcv_seq,
        snd_wscale=live.rcv_wscale,
        rcv_wscale=live.snd_wscale,
        snd_wl1=modular(rcv_seq - 1),
        snd_wnd=live.rcv_wnd,
        max_window=max(live.rcv_wnd, live.max_window),
        rcv_wnd=live.snd_wnd,
        rcv_wup=rcv_seq,
    )
