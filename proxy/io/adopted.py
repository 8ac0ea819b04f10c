"""A socket as the agent gives it: held against its image, and the leg that is to be its other end."""

from __future__ import annotations

import secrets
import socket
from typing import Literal

import msgspec

from proxy.api import U32, Endpoint, FlowNumber, Leg
from proxy.core.errors import Code, ProxyError
from proxy.core.ledger import Live, Snapshot, held_since, mirror, modular, whole
from proxy.sys import options, repair
from proxy.sys.kernel import Kernel

FORESEEN_WINDOW = 16 << 10
"""Bytes that each end of a pair may send before it has heard of the other's true window: less than any buffer takes."""
_WINDOW_SCALE = 7


class AdoptedSocket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One descriptor of the adoption protocol; the sequence numbers mean nothing for a listener."""

    flow: FlowNumber
    kind: Literal["flow", "listener", "datagrams"]
    local: Endpoint
    peer: Endpoint
    direction: Literal["inbound", "outbound"] = "inbound"
    inq_seq: U32 = 0
    inq_len: U32 = 0
    outq_seq: U32 = 0
    outq_len: U32 = 0
    fin_received: bool = False
    fin_sent: bool = False
    """The workload has shut down its side; the FIN is not counted in `outq_seq`."""
    given_up: str = ""
    """Why it cannot be kept: it is reset when the others are repointed."""


class PairedSocket(msgspec.Struct, frozen=True, array_like=True):
    """A connection that was foreseen, both ends of which are at the destination."""

    flow: FlowNumber
    unread: U32
    """Bytes that the workload has received and not read."""


class ForeseenSocket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A connection of the workload's that will be adopted, most likely."""

    flow: FlowNumber
    local: Endpoint
    peer: Endpoint
    direction: Literal["inbound", "outbound"]
    mss: U32
    """The size of its segments: the application may ask for it."""


def examine(kernel: Kernel, item: AdoptedSocket, sock: socket.socket) -> tuple[Snapshot, Live]:
    """The image's account of a flow and the live socket's, which agree. The socket is out of repair mode then.

    Raises LEDGER_VIOLATED or SOCKET_UNUSABLE.
    """
    outq_seq = modular(item.outq_seq + item.fin_sent)
    snapshot = Snapshot(item.inq_seq, item.inq_len, outq_seq, item.outq_len, item.fin_sent)
    try:
        live = repair.read(kernel, sock)
        if not item.given_up:
            snapshot = whole(snapshot, live)
        held_since(snapshot, live)
        repair.leave(kernel, sock)
    except OSError as error:
        raise ProxyError(Code.SOCKET_UNUSABLE, f"flow from {item.peer}: {error.strerror}") from error
    except ProxyError as error:
        raise ProxyError(error.code, f"flow from {item.peer}: {error.message}") from error
    return snapshot, live


def glance(kernel: Kernel, item: PairedSocket, sock: socket.socket) -> Snapshot:
    """What there is to know of a paired one. Its socket goes on as it is, and the other end at the destination has
    numbers of its own: so it is what is in the queues. Raises LEDGER_VIOLATED or SOCKET_UNUSABLE.
    """
    try:
        unsent = kernel.queued(sock, options.SIOCOUTQ)
        unread = sock.recv(item.unread, socket.MSG_PEEK | socket.MSG_DONTWAIT) if item.unread else b""
    except OSError as error:
        raise ProxyError(Code.SOCKET_UNUSABLE, f"flow {item.flow}: {error.strerror}") from error
    if len(unread) != item.unread:
        words = f"flow {item.flow}: {len(unread)} bytes are unread, and {item.unread} were when it was stopped"
        raise ProxyError(Code.LEDGER_VIOLATED, words)
    return Snapshot(0, item.unread, 0, unsent, unread=unread)


def foresee_leg(number: int, peer: Endpoint, app: Endpoint, mss: int) -> Leg:
    """One end of a connection between two sockets of the destination's, which agree on everything beforehand."""
    snd_seq, rcv_seq, timestamp = (secrets.randbits(32) for _ in range(3))
    return Leg(
        flow=number,
        peer=peer,
        app=app,
        snd_seq=snd_seq,
        rcv_seq=rcv_seq,
        tcp_options=options.INFO_TIMESTAMPS | options.INFO_SACK | options.INFO_WSCALE,
        snd_wscale=_WINDOW_SCALE,
        rcv_wscale=_WINDOW_SCALE,
        mss=mss,
        timestamp=timestamp,
        snd_wl1=modular(rcv_seq - 1),
        snd_wnd=FORESEEN_WINDOW,
        max_window=FORESEEN_WINDOW,
        rcv_wnd=FORESEEN_WINDOW,
        rcv_wup=rcv_seq,
    )


def make_leg(
    number: int, peer: Endpoint, app: Endpoint, snapshot: Snapshot, live: Live, link: int = 0, *, given_up: bool = False
) -> Leg:
    """The other end of a restored socket, as the destination is to build it."""
    ends = mirror(snapshot, live)
    return Leg(
        flow=number,
        peer=peer,
        app=app,
        snd_seq=ends.snd_seq,
        rcv_seq=ends.rcv_seq,
        tcp_options=live.tcp_options,
        snd_wscale=ends.snd_wscale,
        rcv_wscale=ends.rcv_wscale,
        mss=live.mss,
        timestamp=live.timestamp,
        snd_wl1=ends.snd_wl1,
        snd_wnd=ends.snd_wnd,
        max_window=ends.max_window,
        rcv_wnd=ends.rcv_wnd,
        rcv_wup=ends.rcv_wup,
        given_up=given_up,
        link=link,
    )
