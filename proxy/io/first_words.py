"""What the workload says first where it has come to, by a UDP socket: it may answer what it was asked before the move.

It was stopped with a question read and not answered. Said from here, the answer would come from an address that nobody
has asked. So at first the proxy hears what such a socket says to whoever has no stand-in (`proxy.io.datagrams`) and has
not asked here himself: it goes the way back, as the answers to later questions do.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from functools import partial

from proxy.api import Endpoint
from proxy.core.datagram import Datagram
from proxy.core.errors import ProxyError
from proxy.io.poller import Poller
from proxy.sys import address, datagrams
from proxy.sys.kernel import Kernel
from proxy.sys.routing import Routing

log = logging.getLogger(__name__)

AT_ONCE = 32  # datagrams a callback: let the other flows have their turn
MAX_DATAGRAM_BYTES = 65535

Heard = Callable[[Datagram], None]


class FirstWords:
    """Of all sockets of one pod. Where the kernel cannot have them heard, they go from here."""

    def __init__(self, kernel: Kernel, poller: Poller, routing: Routing) -> None:
        self._kernel = kernel
        self._poller = poller
        self._routing = routing
        self._heard: dict[int, list[tuple[str, Heard]]] = {}
        """By port: those who listen, each with the address that his socket is bound to."""
        self._catchers: list[socket.socket] = []

    def listen(self, app: Endpoint, heard: Heard) -> None:
        """`heard` gets what the socket that is bound there says from now on."""
        if not self._routing.catches:
            return
        try:
            self._open()
            if app.port not in self._heard:
                self._routing.catch(app.port, wanted=True)
        except (OSError, ProxyError) as error:
            log.warning("what is said first from %s goes from here: %s", app, error)
            self._close_if_idle()
        else:
            self._heard.setdefault(app.port, []).append((address.plain(app.host), heard))

    def forget(self, app: Endpoint, heard: Heard) -> None:
        """Who has listened does so no more."""
        known, one = self._heard.get(app.port, []), (address.plain(app.host), heard)
        if one not in known:
            return
        if len(known) == 1:
            self._let_go(app.port)
        known.remove(one)
        if not known:
            del self._heard[app.port]
        self._close_if_idle()

    def _let_go(self, port: int) -> None:
        try:
            self._routing.catch(port, wanted=False)
        except ProxyError as error:
            log.warning("%s", error)
        for sock in self._catchers:  # what was said before that
            self._hear(sock)

    def _open(self) -> None:
        """Raises OSError."""
        if self._catchers:
            return
        self._catchers.append(datagrams.catcher(self._kernel, socket.AF_INET))
        with contextlib.suppress(OSError):  # the pod has no IPv6
            self._catchers.append(datagrams.catcher(self._kernel, socket.AF_INET6))
        for sock in self._catchers:
            self._poller.read(sock, partial(self._hear, sock))

    def _close_if_idle(self) -> None:
        if self._heard:
            return
        for sock in self._catchers:
            self._poller.forget(sock)
            sock.close()
        self._catchers.clear()

    def _hear(self, sock: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                payload, control, _, sender = sock.recvmsg(MAX_DATAGRAM_BYTES, datagrams.CONTROL_SPACE)
            except OSError:
                return
            app, peer = address.endpoint(sender), datagrams.destination(control)
            if peer and (heard := self._whose(app)):
                heard(Datagram(peer, app.host, payload))

    def _whose(self, app: Endpoint) -> Heard | None:
        """Of several sockets at one port: the one at that address, or at all of its family, or of both."""
        known = dict(self._heard.get(app.port, ()))
        anywhere = "::" if ":" in app.host else "0.0.0.0"
        return known.get(app.host) or known.get(anywhere) or known.get("::")
