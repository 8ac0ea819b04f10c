"""TCP_REPAIR: read a socket's state, build a socket from one.

The order of the calls is the kernel's demand (K: net/ipv4/tcp.c, do_tcp_setsockopt): sequence numbers only while the
socket is closed, options and window only once it is established. `man 7 tcp` is silent on all of it.
"""

from __future__ import annotations

import socket
import struct

from proxy.api import Endpoint, Leg
from proxy.core.errors import Code, ProxyError
from proxy.core.ledger import CIRCLE, Live
from proxy.sys import address, options
from proxy.sys.kernel import Kernel
from proxy.sys.options import SOL_TCP

READ_ATTEMPTS = 64
"""One takes 3 us and packets of a fast stream are tens of us apart, so a second is rare already."""
ASK_SECONDS = 60
"""Between two questions to a workload that says nothing more; its kernel remembers a closed socket for as long."""
_WINDOW = struct.Struct("=5I")
_WORD = struct.Struct("=I")
_PAIR = struct.Struct("=II")


def enter(kernel: Kernel, sock: socket.socket) -> None:
    kernel.set_int(sock, SOL_TCP, options.TCP_REPAIR, options.REPAIR_ON)


def leave(kernel: Kernel, sock: socket.socket, how: int = options.REPAIR_OFF_SILENT) -> None:
    """Repair off; the kernel then forgets SO_REUSEADDR, without which TIME_WAIT would block the port: give it back."""
    kernel.set_int(sock, SOL_TCP, options.TCP_REPAIR, how)
    kernel.set_int(sock, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def read(kernel: Kernel, sock: socket.socket) -> Live:
    """The socket's state. Enters repair mode unless the socket is in it, as CRIU leaves it; the caller leaves it.

    The socket goes on receiving while it is read: what depends on that is read between two looks at rcv_nxt, again and
    again until both are the same. Raises SOCKET_UNUSABLE if they never are.
    """
    try:
        write_seq = _sequence(kernel, sock, options.SEND_QUEUE)
    except PermissionError:  # it is not
        enter(kernel, sock)
        write_seq = _sequence(kernel, sock, options.SEND_QUEUE)
    rcv_nxt = _sequence(kernel, sock, options.RECV_QUEUE)
    for _ in range(READ_ATTEMPTS):
        info = kernel.get_bytes(sock, SOL_TCP, options.TCP_INFO, options.INFO_BYTES)
        window = kernel.get_bytes(sock, SOL_TCP, options.TCP_REPAIR_WINDOW, _WINDOW.size)
        unread = kernel.queued(sock, options.SIOCINQ)
        before, rcv_nxt = rcv_nxt, kernel.get_int(sock, SOL_TCP, options.TCP_QUEUE_SEQ) % CIRCLE
        if before == rcv_nxt:
            break
    else:
        raise ProxyError(Code.SOCKET_UNUSABLE, "bytes arrive faster than the socket can be read")
    bits, scales = info[options.INFO_OPTIONS], info[options.INFO_WSCALES]
    stamped = bits & options.INFO_TIMESTAMPS
    snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup = _WINDOW.unpack(window)
    return Live(
        info[options.INFO_STATE],
        bits,
        scales & 15,
        scales >> 4,
        kernel.get_int(sock, SOL_TCP, options.TCP_MAXSEG),
        kernel.get_int(sock, SOL_TCP, options.TCP_TIMESTAMP) % CIRCLE if stamped else 0,
        write_seq,
        rcv_nxt,
        snd_wl1,
        snd_wnd,
        max_window,
        rcv_wnd,
        rcv_wup,
        unread,
    )


def _sequence(kernel: Kernel, sock: socket.socket, queue: int) -> int:
    """write_seq or rcv_nxt; the queue stays chosen."""
    kernel.set_int(sock, SOL_TCP, options.TCP_REPAIR_QUEUE, queue)
    return kernel.get_int(sock, SOL_TCP, options.TCP_QUEUE_SEQ) % CIRCLE


def blank(kernel: Kernel, family: int) -> socket.socket:
    """All of an app leg that can be made before anything is known of its flow. Raises LEG_NOT_BUILT."""
    sock = foreign_socket(kernel, family)
    try:
        enter(kernel, sock)
        kernel.set_int(sock, SOL_TCP, options.TCP_REPAIR_QUEUE, options.SEND_QUEUE)
        _speed_up(kernel, sock)
    except OSError as error:
        sock.close()
        raise ProxyError(Code.LEG_NOT_BUILT, f"a socket for an app leg: {error.strerror}") from error
    return sock


def build(kernel: Kernel, leg: Leg, sock: socket.socket) -> socket.socket:
    """Make of a blank leg the other end of a restored socket; it stays in repair mode. Raises LEG_NOT_BUILT, and the
    blank is closed."""
    try:
        _assemble(kernel, sock, leg)
    except OSError as error:
        sock.close()
        raise ProxyError(Code.LEG_NOT_BUILT, f"app leg {leg.peer} to {leg.app}: {error.strerror}") from error
    return sock


def foreign_socket(kernel: Kernel, family: int) -> socket.socket:
    """A socket that may bind to an address that is not the pod's, and connect from it (IP_FREEBIND could only bind)."""
    try:
        sock = kernel.tcp_socket(family)
    except OSError as error:
        raise ProxyError(Code.LEG_NOT_BUILT, f"a socket for a foreign address: {error.strerror}") from error
    try:
        if family == socket.AF_INET6:
            kernel.set_int(sock, socket.IPPROTO_IPV6, options.IPV6_TRANSPARENT, 1)
        else:
            kernel.set_int(sock, socket.IPPROTO_IP, options.IP_TRANSPARENT, 1)
    except OSError as error:
        sock.close()
        raise ProxyError(Code.LEG_NOT_BUILT, f"a socket for a foreign address: {error.strerror}") from error
    return sock


def _assemble(kernel: Kernel, sock: socket.socket, leg: Leg) -> None:
    kernel.set_bytes(sock, SOL_TCP, options.TCP_QUEUE_SEQ, _WORD.pack(leg.snd_seq))
    kernel.set_int(sock, SOL_TCP, options.TCP_REPAIR_QUEUE, options.RECV_QUEUE)
    kernel.set_bytes(sock, SOL_TCP, options.TCP_QUEUE_SEQ, _WORD.pack(leg.rcv_seq))
    kernel.bind(sock, (leg.peer.host, leg.peer.port))
    kernel.connect(sock, (leg.app.host, leg.app.port))  # silent: no packet is sent
    kernel.set_bytes(sock, SOL_TCP, options.TCP_REPAIR_OPTIONS, _negotiated(leg))
    if leg.tcp_options & options.INFO_TIMESTAMPS:
        kernel.set_bytes(sock, SOL_TCP, options.TCP_TIMESTAMP, _WORD.pack(leg.timestamp))
    window = _WINDOW.pack(leg.snd_wl1, leg.snd_wnd, leg.max_window, leg.rcv_wnd, leg.rcv_wup)
    kernel.set_bytes(sock, SOL_TCP, options.TCP_REPAIR_WINDOW, window)


def _negotiated(leg: Leg) -> bytes:
    """What the handshake agreed on, as an array of struct tcp_repair_opt.

    Scales of 0 where it had none: unsaid, ours would be what this pod's kernel likes to ask for, as if the other end
    had agreed to it, and each window would look that much smaller there (K: tcp_output.c, tcp_connect_init).
    """
    pairs = _PAIR.pack(options.OPT_MAXSEG, leg.mss)
    if leg.tcp_options & options.INFO_SACK:
        pairs += _PAIR.pack(options.OPT_SACK_PERM, 0)
    scaled = leg.tcp_options & options.INFO_WSCALE
    pairs += _PAIR.pack(options.OPT_WINDOW, leg.snd_wscale | leg.rcv_wscale << 16 if scaled else 0)
    if leg.tcp_options & options.INFO_TIMESTAMPS:
        pairs += _PAIR.pack(options.OPT_TIMESTAMP, 0)
    return pairs


def fresh(kernel: Kernel, peer: Endpoint) -> socket.socket:
    """A socket bound to a peer's own address and port, to be connected. Raises LEG_NOT_BUILT.

    Repair mode is on while it is bound: the port may be that of a listener of the workload's, or of another leg, which
    only the four-tuple has to differ from (K: SK_FORCE_REUSE in inet_csk_get_port).
    """
    sock = foreign_socket(kernel, address.family(peer.host))
    try:
        enter(kernel, sock)
        kernel.bind(sock, (peer.host, peer.port))
        leave(kernel, sock)
        _speed_up(kernel, sock)
    except OSError as error:
        sock.close()
        raise ProxyError(Code.LEG_NOT_BUILT, f"an app leg from {peer}: {error.strerror}") from error
    return sock


def keep_asking(kernel: Kernel, sock: socket.socket) -> None:
    """Have the kernel ask the other end of an app leg whether it is there: a packet a minute, over lo."""
    kernel.set_int(sock, SOL_TCP, socket.TCP_KEEPIDLE, ASK_SECONDS)
    kernel.set_int(sock, SOL_TCP, socket.TCP_KEEPINTVL, ASK_SECONDS)
    kernel.set_int(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _speed_up(kernel: Kernel, sock: socket.socket) -> None:
    """An app leg's path is lo: no Nagle, and no congestion control that paces (where BBR is the default it would)."""
    kernel.set_int(sock, SOL_TCP, socket.TCP_NODELAY, 1)
    kernel.set_bytes(sock, SOL_TCP, options.TCP_CONGESTION, b"reno")  # the one that every kernel has
