"""UDP: what comes to the old address goes on to the workload with its sender's address, and the answers back.

To the flow's machinery it is a flow like any other: its leg is one end of a socket pair, and at the other end the
stream is cut into datagrams (`proxy.io.datagram_stream`). Before the repoint the kernel keeps what comes, as far as the
socket's receive buffer goes; so it does whenever the stream is full. UDP may lose, but it is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping

from proxy.api import Endpoint
from proxy.core.datagram import Datagram
from proxy.core.errors import ProxyError
from proxy.io.askers import IDLE_SECONDS, Ends, StandIn
from proxy.io.context import Context
from proxy.io.datagram_stream import DatagramStream
from proxy.io.retirement import Retirement
from proxy.sys import address, datagrams, nftables

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
FIRST_SECONDS = 5.0
"""So long after the resume what the workload says first is heard: whoever asked has given up an answer by then."""
MAX_PEERS = 1024  # of one socket; the one that was silent longest makes room
MAX_DATAGRAM_BYTES = 65535
AT_ONCE = 32  # datagrams a callback: let the other flows have their turn
AT_LAST = 1024  # datagrams: the kernel's usual receive buffer has room for 277 small ones


class HeldDatagrams:
    """An adopted UDP socket at the source."""

    def __init__(self, context: Context, sock: socket.socket, local: Endpoint, peer: Endpoint, number: int) -> None:
        self.local, self.peer, self.number = local, peer, number
        self._context = context
        self._sock = sock
        self._readdress: Mapping[str, str] = {}
        self._stream: DatagramStream | None = None
        self._lost = 0
        self._dropped_before = datagrams.dropped(context.kernel, sock)
        self._reading = False

    @property
    def is_idle(self) -> bool:
        return self._stream is None or self._context.loop.time() - self._stream.used_at > IDLE_SECONDS

    @property
    def dropped(self) -> int:
        """Datagrams that were lost since the adoption, for want of room or of an address."""
        if self._sock.fileno() < 0:
            return self._lost
        return self._lost + datagrams.dropped(self._context.kernel, self._sock) - self._dropped_before

    def share(self, shared: bool) -> None:
        datagrams.share(self._context.kernel, self._sock, shared)

    def repoint(self, readdress: Mapping[str, str]) -> socket.socket:
        """Send on what has come and what will come; gives the flow's leg."""
        self._sock.setblocking(False)
        self._readdress = readdress
        self._stream = DatagramStream(self._context, self._answer, self.close)
        datagrams.tell_marks(self._context.kernel, self._sock)
        self._context.askers.relayed[self.local.port] += 1
        ends = self._ends(self.peer)
        if self.peer.port and ends not in self._context.askers.stand_ins:
            self._context.askers.connected.add(ends)
        self._read(True)
        return self._stream.leg

    def hand_over(self) -> None:
        """The workload has the address itself again: what has come goes its way still."""
        if self._sock.fileno() >= 0:
            self._read_some(AT_LAST)
        self.close()

    def close(self) -> None:
        """Give the address up."""
        if self._stream:
            self._stream.close()
        if self._sock.fileno() >= 0:
            self._context.askers.relayed[self.local.port] -= self._stream is not None
            self._lost = self.dropped
            self._context.poller.forget(self._sock)
            self._context.askers.connected.discard(self._ends(self.peer))
            self._sock.close()

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            self._context.poller.read(self._sock, self._readable if wanted else None)

    def _room(self) -> None:
        self._read(self._sock.fileno() >= 0)

    def _readable(self) -> None:
        self._read_some(AT_ONCE)
        if self._stream and self._stream.full and self._sock.fileno() >= 0:
            self._read(False)

    def _read_some(self, most: int) -> None:
        """Into the stream, as long as there is room."""
        assert self._stream
        for _ in range(most):
            try:
                payload, control, _, sender = self._sock.recvmsg(MAX_DATAGRAM_BYTES, datagrams.CONTROL_SPACE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # what an ICMP message said of an answer
                continue
            ends = own, peer = self._ends(address.endpoint(sender))
            if not datagrams.is_speakers(control):
                self._context.askers.heard(ends)
            app = self._readdress.get(own.host, own.host)
            for one in datagrams.segments(payload, control):
                self._stream.say(Datagram(peer, app, one), self._room)
            if self._sock.fileno() < 0 or self._stream.full:
                return

    def _ends(self, peer: Endpoint) -> Ends:
        """The workload's end in this pod: the socket's own address, or that of the peer's family."""
        host = address.plain(self.local.host)
        if host in ("0.0.0.0", "::"):
            family = address.family(peer.host)
            host = next((own for own in self._readdress if address.family(own) == family), host)
        return Endpoint(host, self.local.port), peer

    def _answer(self, one: Datagram) -> None:
        mapped = self._sock.family == socket.AF_INET6 and ":" not in one.peer.host
        host = f"::ffff:{one.peer.host}" if mapped else one.peer.host
        try:
            if self.peer.port:
                self._sock.send(one.payload)
            else:
                self._sock.sendto(one.payload, (host, one.peer.port))
        except OSError as error:
            self._lost += 1
            log.debug("an answer to %s: %s", one.peer, error)


class Speakers:
    """The destination's end of one UDP socket: a socket with the peer's address for each peer."""

    def __init__(self, context: Context, retirement: Retirement, app: Endpoint, peer: Endpoint) -> None:
        self._context = context
        self._retirement = retirement
        self._app, self._peer = app, address.unmapped(peer)
        self._stand_ins: dict[Ends, StandIn] = {}
        self._stream = DatagramStream(context, self._deliver, self.close)
        self._timer: asyncio.TimerHandle | None = context.loop.call_later(LOOK_SECONDS, self._look)
        self._lost = 0
        self._first: asyncio.TimerHandle | None = None
        if context.first_words and not context.askers.relayed[app.port]:
            context.first_words.listen(app, self._hear_first)

    @property
    def dropped(self) -> int:
        """Datagrams that could not be given to the workload, or were answered by its kernel alone."""
        return self._lost

    @property
    def leg(self) -> socket.socket:
        return self._stream.leg

    @property
    def is_idle(self) -> bool:
        return self._context.loop.time() - self._stream.used_at > IDLE_SECONDS

    def begin(self) -> None:
        """The workload runs: a connected socket's words go to its peer by the old address from the first one on.

        Not where that address is in this pod, or the words have a way from here already.
        """
        ends = self._app, self._peer
        askers = self._context.askers
        if self._peer.port and ends not in askers.stand_ins and not askers.is_direct(ends):
            with contextlib.suppress(OSError, ProxyError):
                self._stand_in(ends, lasting=True)
        self._first = self._context.loop.call_later(FIRST_SECONDS, self._hear_no_more)

    def close(self) -> None:
        if self._first:
            self._first.cancel()
        self._hear_no_more()
        if self._timer:
            self._timer.cancel()
        self._timer = None
        self._stream.close()
        for ends in list(self._stand_ins):
            self._forget(ends)

    def _deliver(self, one: Datagram) -> None:
        ends = Endpoint(one.app, self._app.port), one.peer
        try:
            if self._context.askers.is_direct(ends):
                self._say_once(ends, one.payload)
            else:
                stand_in = self._context.askers.stand_ins.get(ends) or self._stand_in(ends, lasting=False)
                stand_in.used_at = self._context.loop.time()
                stand_in.sock.send(one.payload)
        except (OSError, ProxyError) as error:
            self._lost += 1
            log.debug("a datagram from %s: %s", one.peer, error)

    def _say_once(self, ends: Ends, payload: bytes) -> None:
        """Nobody hears the answer here: it is native. Raises OSError."""
        app, peer = ends
        with datagrams.speaker(self._context.kernel, peer, app) as sock:
            sock.send(payload)

    def _stand_in(self, ends: Ends, *, lasting: bool) -> StandIn:
        """Raises OSError or ROUTING_FAILED."""
        if len(self._stand_ins) >= MAX_PEERS:
            self._forget(min(self._stand_ins, key=lambda each: self._stand_ins[each].used_at))
        app, peer = ends
        sock = datagrams.speaker(self._context.kernel, peer, app)
        key = nftables.datagram_key(app, peer)
        try:
            self._retirement.use([key])
        except ProxyError:
            sock.close()
            raise
        made = StandIn(sock, key, self._context.loop.time(), lasting)
        self._stand_ins[ends] = self._context.askers.stand_ins[ends] = made
        self._context.poller.read(sock, lambda: self._hear(ends, made))
        return made

    def _hear_no_more(self) -> None:
        if self._context.first_words:
            self._context.first_words.forget(self._app, self._hear_first)

    def _hear_first(self, one: Datagram) -> None:
        if self._stream.full:
            self._lost += 1
        else:
            self._stream.say(one, self._room)

    def _hear(self, ends: Ends, stand_in: StandIn) -> None:
        app, peer = ends
        for _ in range(AT_ONCE):
            if self._stream.full:  # what has no room in the stream waits in the socket
                self._listen(False)
                return
            try:
                payload = stand_in.sock.recv(MAX_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # ECONNREFUSED: the workload has closed its socket
                self._lost += 1
                return
            stand_in.used_at = self._context.loop.time()
            self._stream.say(Datagram(peer, app.host, payload), self._room)
            if stand_in.sock.fileno() < 0:
                return

    def _room(self) -> None:
        self._listen(True)

    def _listen(self, wanted: bool) -> None:
        for ends, stand_in in self._stand_ins.items():
            hear = (lambda ends=ends, stand_in=stand_in: self._hear(ends, stand_in)) if wanted else None
            self._context.poller.read(stand_in.sock, hear)

    def _look(self) -> None:
        """Forget the peers that have been silent for long."""
        self._timer = self._context.loop.call_later(LOOK_SECONDS, self._look)
        oldest = self._context.loop.time() - IDLE_SECONDS
        for ends in [ends for ends, each in self._stand_ins.items() if each.used_at < oldest and not each.lasting]:
            self._forget(ends)

    def _forget(self, ends: Ends) -> None:
        stand_in = self._stand_ins.pop(ends)
        del self._context.askers.stand_ins[ends]
        self._context.poller.forget(stand_in.sock)
        stand_in.sock.close()
        self._retirement.retire(stand_in.key)
