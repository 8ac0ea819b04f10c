"""The part of CRIU: a socket's state read with TCP_REPAIR and, in the other pod, a socket made of it."""

from __future__ import annotations

import secrets
import socket
import struct
from typing import Any

from proxy.sys import options, repair
from proxy.sys.kernel import Kernel

KERNEL = Kernel()


def is_listener(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


class Image:
    """What CRIU would have of one TCP socket. The socket stays in repair mode, as CRIU leaves it."""

    def __init__(self, sock: socket.socket) -> None:
        self.flow = secrets.randbits(48)
        self.sock = sock
        self.family = sock.family
        self.listener = is_listener(sock)
        self.local = sock.getsockname()[:2]
        self.peer = ("0.0.0.0", 0) if self.listener else sock.getpeername()[:2]
        if self.listener:
            return
        self.live = repair.read(KERNEL, sock)
        self.outq_len = KERNEL.queued(sock, options.SIOCOUTQ)
        self.fin_received = self.live.state in (8, 9, 11)
        self.fin_sent = self.live.state in (4, 5, 9, 11)
        self.queue = b""
        if self.live.unread:
            self.queue = sock.recv(self.live.unread, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        assert len(self.queue) == self.live.unread

    def request(self) -> dict[str, Any]:
        if self.listener:
            return {"flow": self.flow, "kind": "listener", "local": self.local, "peer": self.peer}
        return {
            "flow": self.flow,
            "kind": "flow",
            "local": self.local,
            "peer": self.peer,
            "direction": "inbound",
            "inq_seq": (self.live.rcv_nxt - self.fin_received) % 2**32,
            "inq_len": self.live.unread,
            "outq_seq": (self.live.write_seq - self.fin_sent) % 2**32,
            "outq_len": self.outq_len,
            "fin_received": self.fin_received,
            "fin_sent": self.fin_sent,
        }

    def restore(self, local: str, *, own: socket.socket | None = None) -> socket.socket:
        """The socket again, at another address, with nothing to send and its unread bytes; still in repair mode."""
        live, sock = self.live, own or socket.socket(self.family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        repair.enter(KERNEL, sock)
        rcv = live.rcv_nxt - self.fin_received
        snd = live.write_seq - self.fin_sent
        for queue, number in ((options.RECV_QUEUE, rcv - len(self.queue)), (options.SEND_QUEUE, snd)):
            sock.setsockopt(6, options.TCP_REPAIR_QUEUE, queue)
            sock.setsockopt(6, options.TCP_QUEUE_SEQ, struct.pack("=I", number % 2**32))
        mapped = self.family == socket.AF_INET6 and ":" not in local
        sock.bind((f"::ffff:{local}" if mapped else local, self.local[1]))
        sock.connect(self.peer)
        pairs = [(2, live.mss)]
        pairs += [(4, 0)] if live.tcp_options & 2 else []
        pairs += [(3, live.snd_wscale | live.rcv_wscale << 16)] if live.tcp_options & 4 else []
        pairs += [(8, 0)] if live.tcp_options & 1 else []
        sock.setsockopt(6, options.TCP_REPAIR_OPTIONS, b"".join(struct.pack("=II", *pair) for pair in pairs))
        if live.tcp_options & 1:
            sock.setsockopt(6, options.TCP_TIMESTAMP, struct.pack("=I", live.timestamp))
        self._fill(sock)
        window = struct.pack(
            "=5I",
            live.snd_wl1,
            live.snd_wnd,
            live.max_window,
            live.rcv_wnd + self.fin_received,
            (live.rcv_wup - self.fin_received) % 2**32,
        )
        sock.setsockopt(6, options.TCP_REPAIR_WINDOW, window)
        return sock

    def _fill(self, sock: socket.socket) -> None:
        if not self.queue:
            return
        sock.setsockopt(socket.SOL_SOCKET, options.SO_RCVBUFFORCE, max(len(self.queue) * 4, 1 << 18))
        sock.setsockopt(6, options.TCP_REPAIR_QUEUE, options.RECV_QUEUE)
        view = memoryview(self.queue)
        while view:
            view = view[sock.send(view[:32768]) :]

    def resume(self, sock: socket.socket) -> None:
        repair.leave(KERNEL, sock, options.REPAIR_OFF)
        if self.fin_sent:
            sock.shutdown(socket.SHUT_WR)
