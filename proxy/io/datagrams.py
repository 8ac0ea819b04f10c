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
from proxy.io.context import Context
from proxy.io.datagram_stream import DatagramStream
from proxy.io.retirement import Retirement
from proxy.sys import address, datagrams, nftables

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""A peer that was silent so long, and heard nothing, is forgotten: the workload's next word to it is native."""
LOOK_SECONDS = 5.0
MAX_PEERS = 1024  # of one socket; the one that was silent longest makes room
MAX_DATAGRAM_BYTES = 65535
AT_ONCE = 32  # datagrams a callback: let the other flows have their turn


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
        self._read(True)
        return self._stream.leg

    def close(self) -> None:
        """Give the address up."""
        if self._stream:
            self._stream.close()
        if self._sock.fileno() >= 0:
            self._lost = self.dropped
            self._context.poller.forget(self._sock)
            self._sock.close()

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            self._context.poller.read(self._sock, self._readable if wanted else None)

    def _room(self) -> None:
        self._read(self._sock.fileno() >= 0)

    def _readable(self) -> None:
        assert self._stream
        for _ in range(AT_ONCE):
            try:
                payload, sender = self._sock.recvfrom(MAX_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # what an ICMP message said of an answer
                continue
            peer = address.endpoint(sender)
            self._stream.say(Datagram(peer, self._app_for(peer), payload), self._room)
            if self._sock.fileno() < 0:
                return
            if self._stream.full:
                self._read(False)
                return

    def _app_for(self, peer: Endpoint) -> str:
        """The workload's address at the destination: the socket's own, or that of the peer's family."""
        host = address.plain(self.local.host)
        if host not in ("0.0.0.0", "::"):
            return self._readdress.get(host, host)
        family = address.family(peer.host)
        return next((new for new in self._readdress.values() if address.family(new) == family), host)

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


class _Speaker:
    """A peer's stand-in at the destination."""

    def __init__(self, sock: socket.socket, key: bytes, now: float, lasting: bool) -> None:
        self.sock, self.key, self.used_at, self.lasting = sock, key, now, lasting


class Speakers:
    """The destination's end of one UDP socket: a socket with the peer's address for each peer."""

    def __init__(self, context: Context, retirement: Retirement, app: Endpoint, peer: Endpoint) -> None:
        self._context = context
        self._retirement = retirement
        self._app, self._peer = app, peer
        self._by_peer: dict[tuple[Endpoint, str], _Speaker] = {}
        self._stream = DatagramStream(context, self._deliver, self.close)
        self._timer: asyncio.TimerHandle | None = context.loop.call_later(LOOK_SECONDS, self._look)
        self._lost = 0

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
        """The workload runs: a connected socket's words go to its peer by the old address from the first one on."""
        if self._peer.port:
            with contextlib.suppress(OSError, ProxyError):
                self._speaker(self._peer, self._app.host, lasting=True)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        self._stream.close()
        for at in list(self._by_peer):
            self._forget(at)

    def _deliver(self, one: Datagram) -> None:
        try:
            speaker = self._speaker(one.peer, one.app, lasting=False)
            speaker.used_at = self._context.loop.time()
            speaker.sock.send(one.payload)
        except (OSError, ProxyError) as error:
            self._lost += 1
            log.debug("a datagram from %s: %s", one.peer, error)

    def _speaker(self, peer: Endpoint, host: str, *, lasting: bool) -> _Speaker:
        """Raises OSError or ROUTING_FAILED."""
        at = peer, host
        if found := self._by_peer.get(at):
            return found
        if len(self._by_peer) >= MAX_PEERS:
            self._forget(min(self._by_peer, key=lambda each: self._by_peer[each].used_at))
        app = Endpoint(host, self._app.port)
        sock = datagrams.speaker(self._context.kernel, peer, app)
        key = nftables.datagram_key(app, peer)
        try:
            self._retirement.use([key])
        except ProxyError:
            sock.close()
            raise
        made = self._by_peer[at] = _Speaker(sock, key, self._context.loop.time(), lasting)
        self._context.poller.read(sock, lambda: self._hear(peer, host, made))
        return made

    def _hear(self, peer: Endpoint, host: str, speaker: _Speaker) -> None:
        for _ in range(AT_ONCE):
            if self._stream.full:  # what has no room in the stream waits in the socket
                self._listen(False)
                return
            try:
                payload = speaker.sock.recv(MAX_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # ECONNREFUSED: the workload has closed its socket
                self._lost += 1
                return
            speaker.used_at = self._context.loop.time()
            self._stream.say(Datagram(peer, host, payload), self._room)
            if speaker.sock.fileno() < 0:
                return

    def _room(self) -> None:
        self._listen(True)

    def _listen(self, wanted: bool) -> None:
        for (peer, host), speaker in self._by_peer.items():
            hear = (lambda peer=peer, host=host, speaker=speaker: self._hear(peer, host, speaker)) if wanted else None
            self._context.poller.read(speaker.sock, hear)

    def _look(self) -> None:
        """Forget the peers that have been silent for long."""
        self._timer = self._context.loop.call_later(LOOK_SECONDS, self._look)
        oldest = self._context.loop.time() - IDLE_SECONDS
        for at in [at for at, each in self._by_peer.items() if each.used_at < oldest and not each.lasting]:
            self._forget(at)

    def _forget(self, at: tuple[Endpoint, str]) -> None:
        speaker = self._by_peer.pop(at)
        self._context.poller.forget(speaker.sock)
        speaker.sock.close()
        self._retirement.retire(speaker.key)
