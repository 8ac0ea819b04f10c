"""A flow's leg and its links: bytes both ways, over one link after the other (`proxy.core.succession`)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from proxy.core.flow import Event
from proxy.core.succession import Do, Succession
from proxy.io.context import Context
from proxy.io.relay import Pump, close_on_death, end, finish
from proxy.sys.options import SIOCINQ, SIOCOUTQ


class Path:
    """Both directions of one flow. Its events go to `tell`; after a failure or an end it does nothing by itself."""

    def __init__(self, context: Context, leg: socket.socket, tell: Callable[[Event], None]) -> None:
        self._context = context
        self._leg = leg
        self._tell = tell
        self._order = Succession()
        self._links: list[socket.socket] = []
        self._prefaces: dict[int, bytes] = {}
        self._from_leg: list[Pump] = []
        """One for each link that has been given to, in their order; the last one may be running."""
        self._from_link: list[Pump] = []
        self._leg_ended = False
        self._broken: socket.socket | None = None
        self._dismissed = 0
        """So many links, the oldest, have been closed."""

    @property
    def link(self) -> socket.socket | None:
        """The newest link."""
        return self._links[-1] if self._links else None

    @property
    def links(self) -> list[socket.socket]:
        """Those that are the flow's: the newest, and older ones that are not read to their end."""
        return self._links[self._dismissed :]

    @property
    def relays_both_ways(self) -> bool:
        return bool(self._from_leg and self._from_link)

    # The first link

    def first(self, link: socket.socket, preface: bytes | None = None) -> None:
        """The flow's first link; nothing is moved yet.

        `preface` is what has come behind the frame that named the flow: whatever comes from now on is the flow's too.
        None: frames are still to come.
        """
        self._links = [link]
        if preface is not None:
            self._prefaces[0] = preface

    def give(self) -> None:
        """From now on what comes from the leg goes to the link. A reset of either is noticed, whoever is quiet."""
        self._context.poller.hangup(self._leg, self._on_leg_hangup)
        self._context.poller.hangup(self._links[0], self._on_link_hangup)
        close_on_death(self._links[0])
        self._start_giving()

    def take(self, preface: bytes = b"") -> None:
        """From now on what comes from the link goes to the leg; `preface` has come already."""
        self._prefaces.setdefault(0, preface)
        self._start_taking()

    # Successors

    def expect(self) -> None:
        self._order.expect()

    def deny(self) -> None:
        self._do(self._order.deny())

    def succeed(self, link: socket.socket, preface: bytes) -> None:
        """A newer link, on which the flow's bytes are welcome."""
        self._links.append(link)
        self._prefaces[len(self._links) - 1] = preface
        close_on_death(link)
        self._context.poller.hangup(link, self._on_link_hangup)
        self._do(self._order.succeed())

    def _do(self, orders: list[Do]) -> None:
        for order in orders:
            match order:
                case Do.STOP_GIVING:
                    self._from_leg[-1].retire(self._on_flushed)
                case Do.GIVE:
                    finish(self._links[self._order.giving - 1])
                    self._start_giving()
                case Do.TAKE:
                    self._start_taking()
                case Do.END:
                    self._tell(Event.LINK_EOF)
        self._dismiss()

    def _on_flushed(self) -> None:
        self._do(self._order.flushed())

    def _dismiss(self) -> None:
        """Close the links that have been given and read to the end. (Their last bytes are the kernel's to deliver.)"""
        while self._dismissed < min(self._order.in_use, len(self._links) - 1):
            self._let_go(self._links[self._dismissed])
            end(self._links[self._dismissed])
            self._dismissed += 1

    # The pumps

    def _start_giving(self) -> None:
        link = self._links[self._order.giving]
        self._from_leg.append(self._pump(self._leg, link, self._on_leg_end, self._on_leg_failed))
        if self._leg_ended:
            finish(link)
        else:
            self._from_leg[-1].start()

    def _start_taking(self) -> None:
        at = self._order.taking
        self._from_link.append(self._pump(self._links[at], self._leg, self._on_link_end, self._on_link_failed))
        self._from_link[-1].start(self._prefaces.pop(at, b""))

    def _pump(
        self, source: socket.socket, target: socket.socket, ended: Callable[[], None], failed: Callable[[], None]
    ) -> Pump:
        def on_failure(by_source: bool) -> None:
            if by_source:
                failed()
            else:
                self._break(target)

        def on_end() -> None:
            if self._broken is source:
                failed()
            else:
                ended()

        return Pump(self._context.poller, self._context.scratch, source, target, on_end, on_failure)

    def _on_leg_end(self) -> None:
        self._leg_ended = True
        self._tell(Event.LEG_EOF)

    def _on_leg_failed(self) -> None:
        self._tell(Event.LEG_FAILED)

    def _on_link_end(self) -> None:
        self._do(self._order.link_ended())

    def _on_link_failed(self) -> None:
        self._tell(Event.LINK_FAILED)

    def _break(self, sock: socket.socket) -> None:
        """Sending failed, so the connection was reset. What came before the reset can still be read: deliver it first.

        The kernel reports a reset once, and then an end of stream: so remember whose it is.
        """
        self.broke(sock)
        if self._reader_of(sock) is None:
            self._tell(Event.LEG_FAILED if sock is self._leg else Event.LINK_FAILED)

    def broke(self, sock: socket.socket) -> None:
        """Somebody has sent on it and been told of a reset: its end of stream is none."""
        self._broken = sock

    def _on_leg_hangup(self) -> None:
        if self._reader_of(self._leg) is None:  # else it is only waiting, and will see for itself
            self._tell(Event.LEG_FAILED)

    def _on_link_hangup(self) -> None:
        """A link that will still be read tells then whether it was reset, or has only been ended by both sides."""
        if self._order.ended or not self._from_link:
            self._tell(Event.LINK_FAILED)

    def _reader_of(self, sock: socket.socket) -> Pump | None:
        """The running pump that reads the socket."""
        if sock is self._leg:
            pumps = self._from_leg
        else:
            taken = self._order.taking < len(self._links) and sock is self._links[self._order.taking]
            pumps = self._from_link if taken else []
        return pumps[-1] if pumps and pumps[-1].running else None

    # The end

    def stop(self) -> None:
        """Move no more bytes and watch no socket, as they are about to be closed."""
        for pump in (*self._from_leg[-1:], *self._from_link[-1:]):
            pump.stop()
        for sock in (self._leg, *self._links):
            self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self._context.poller.forget(sock)

    def finish_links(self) -> None:
        """The leg's stream has ended: so does the one into the newest link; an older one's when it is flushed."""
        finish(self._links[self._order.giving])

    def reset_links(self) -> None:
        for link in self.links:
            self._context.drainer.reset(link)

    def close_links(self) -> None:
        for link in self.links:
            end(link)

    # Numbers

    @property
    def from_leg_bytes(self) -> int:
        return sum(pump.moved for pump in self._from_leg)

    @property
    def from_link_bytes(self) -> int:
        return sum(pump.moved for pump in self._from_link)

    def first_link(self) -> tuple[int, int, int, int]:
        """Of the first link alone: bytes given, bytes taken, given and not acknowledged, arrived and not taken.

        The two proxies that it joins hold these against each other; a successor has another proxy at its end.
        """
        given = self._from_leg[0].moved if self._from_leg else 0
        taken = self._from_link[0].moved if self._from_link else 0
        if not self._links or self._links[0].fileno() < 0:
            return given, taken, 0, 0
        queued = self._context.kernel.queued
        waiting = queued(self._links[0], SIOCINQ) + self._kept() if self._from_link or 0 in self._prefaces else 0
        return given, taken, queued(self._links[0], SIOCOUTQ), waiting

    def _kept(self) -> int:
        """Bytes read from the first link and not given on yet."""
        return self._from_link[0].kept_bytes if self._from_link else len(self._prefaces[0])
