"""A socket as the agent gives it: held against its image, and the leg that is to be its other end."""

from __future__ import annotations

import socket
from typing import Literal

import msgspec

from proxy.api import U32, Endpoint, FlowNumber, Leg
from proxy.core.errors import Code, ProxyError
from proxy.core.ledger import Live, Snapshot, held_since, mirror, modular, whole
from proxy.sys import repair
from proxy.sys.kernel import Kernel


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
