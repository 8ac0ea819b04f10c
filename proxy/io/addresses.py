"""What is kept at the addresses that a workload has left, for whoever comes there: listeners and UDP sockets."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.io.adopted import AdoptedSocket
from proxy.io.context import Context
from proxy.io.datagrams import HeldDatagrams
from proxy.io.listener import HeldListener
from proxy.io.pool import LinkPool
from proxy.io.watch import EndWatch


class KeptAddresses:
    """One migration's, from the adoption on. Flows end by themselves; these do not, and are kept until the workload has
    ended (`watch`), or is here again (`hand_over`, `leave`)."""

    def __init__(self, context: Context, accepted: Callable[[socket, Endpoint, Endpoint], None]) -> None:
        """`accepted`: as `HeldListener` has it."""
        self.listeners: dict[int, HeldListener] = {}
        self.datagrams: dict[int, HeldDatagrams] = {}
        self._context = context
        self._accepted = accepted
        self._watch: EndWatch | None = None

    def __bool__(self) -> bool:
        return bool(self.listeners or self.datagrams)

    def keep_listeners(self, pairs: list[tuple[AdoptedSocket, socket]]) -> None:
        """All of them, or none. Raises SOCKET_UNUSABLE."""
        kept: dict[int, HeldListener] = {}
        try:
            for item, sock in pairs:
                if item.flow not in self.listeners:
                    kept[item.flow] = HeldListener(self._context, sock, item.local, self._accepted)
        except OSError as error:
            for listener in kept.values():
                listener.release()
            raise ProxyError(Code.SOCKET_UNUSABLE, f"a listener: {error.strerror}") from error
        self.listeners.update(kept)
        for item, sock in pairs:
            if item.flow not in kept:  # said twice
                sock.close()

    def keep_datagrams(self, item: AdoptedSocket, sock: socket, local: Endpoint, peer: Endpoint) -> None:
        """Nothing is read before the repoint: the kernel keeps what comes, in the socket's receive buffer."""
        if item.flow in self.datagrams:  # said twice
            sock.close()
        else:
            self.datagrams[item.flow] = HeldDatagrams(self._context, sock, local, peer, item.flow)

    def share(self, shared: bool, seconds: float = 0) -> None:
        """See `HeldListener.share`."""
        for listener in self.listeners.values():
            listener.share(shared, seconds)
        for each in self.datagrams.values():
            each.share(shared)

    def hand_over(self) -> None:
        """The workload is in this pod again, runs, and listens."""
        self.listeners = {number: each for number, each in self.listeners.items() if not each.hand_over()}

    def leave(self) -> None:
        """Nobody listens for the workload here any more. Who has come is sent after it none the less.

        Where UDP sockets share a port (SO_REUSEPORT) with the workload's own, which are home again, the last of them
        all takes the place of one that is closed (K: reuseport_detach_sock): closed from the last on, they leave those
        in their order, by which the kernel knows whose a peer is.
        """
        self._stop_watching()
        for listener in self.listeners.values():
            listener.take_waiting()
            listener.close()
        self.listeners.clear()
        for each in reversed(self.datagrams.values()):
            each.hand_over()
        self.datagrams.clear()

    def release(self, *, repointed: bool) -> None:
        """The migration is over: the sockets are closed, and before the repoint the workload's backlogs given back."""
        self._stop_watching()
        for listener in self.listeners.values():
            if repointed:
                listener.close()
            else:
                listener.release()
        for each in self.datagrams.values():
            each.close()

    def watch(self, links: LinkPool, ended: Callable[[], None]) -> None:
        """For the end of the workload, where `links` lead to now."""
        self._stop_watching()
        if self:
            self._watch = EndWatch(self._context, links, ended)

    def _stop_watching(self) -> None:
        if self._watch:
            self._watch.close()
        self._watch = None
