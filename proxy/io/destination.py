"""A flow at the destination: its leg faces the restored workload and has the peer's own address."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.core.flow import Event, State
from proxy.io.context import Context
from proxy.io.datagrams import Speakers
from proxy.io.flow import Direction, Flow
from proxy.io.link import Link
from proxy.sys import nftables, options, repair


class DestinationFlow(Flow):
    """A flow at the destination: its leg faces the restored workload and has the peer's address."""

    side = "destination"
    TAKEN_SECONDS, LOOK_SECONDS = 60.0, 0.01
    """So long a fresh leg waits for another flow with the same two ends to be over, and between two looks. A peer that
    comes again from the same port has done with the one before, but its last bytes and its end may still be on their
    way to the workload, which may be slow to read."""

    def __init__(
        self,
        context: Context,
        number: int,
        peer: Endpoint,
        app: Endpoint,
        direction: Direction,
        state: State,
        leg: socket.socket,
        ended: Callable[[Flow], None],
        retire: Callable[[bytes], None],
    ) -> None:
        super().__init__(context, number, peer, app, direction, state, leg, ended)
        self._retire = retire
        self._connecting = False
        self._again: asyncio.TimerHandle | None = None
        self._answer: Callable[[str], None] | None = None
        self.paired = False
        """Its leg was built ahead, with the workload's socket that it is the other end of."""

    def say(self, unread: bytes) -> None:
        """What the workload had not read is in its socket again, over lo. The leg is in repair mode before and after:
        nothing is heard of it if it has to go. Raises LEG_NOT_BUILT."""
        kernel = self.context.kernel
        try:
            repair.leave(kernel, self.leg)
            said = self.leg.send(unread)
            repair.enter(kernel, self.leg)
        except OSError as error:
            raise ProxyError(Code.LEG_NOT_BUILT, f"{self.local}: what was unread: {error.strerror}") from error
        if said != len(unread):
            raise ProxyError(Code.LEG_NOT_BUILT, f"{self.local}: {said} of {len(unread)} unread bytes can be said")

    def leave_repair(self) -> None:
        """With a window probe: the application's kernel answers with its true window, so the first bytes do not wait.

        Mirrored windows are as old as the adoption: closed, often, by what was held. Those of pairs are open.
        """
        if isinstance(self.datagrams, Speakers):
            self.datagrams.begin()
            return
        how = options.REPAIR_OFF_SILENT if self.paired else options.REPAIR_OFF
        repair.leave(self.context.kernel, self.leg, how)

    def join(self, link: Link) -> None:
        """A link has come that names this flow (see InboundMigration.awaiting)."""
        self.path.first(link)
        self.via = link.via
        self.tell(Event.LINK_READY)

    def look_for_link(self) -> None:
        """One that broke while nobody needed it may have been given up: then it is asked for anew."""
        if self.state is State.WAITING and self.path.drop_dead_link():
            self.tell(Event.LINK_FAILED)

    def connect(self, link: Link, answer: Callable[[str], None]) -> None:
        """Connect the fresh app leg; `answer` is told "" or why it failed, before any byte is relayed."""
        self.path.first(link)
        self.via = link.via
        self._answer = answer
        self._connect(self.context.loop.time() + self.TAKEN_SECONDS)

    def _connect(self, give_up_at: float) -> None:
        loop = self.context.loop
        code = self.leg.connect_ex((self.local.host, self.local.port))
        if code in (0, errno.EINPROGRESS):
            self._connecting = True
            self.context.poller.write(self.leg, self._on_connected)
        elif code == errno.EADDRNOTAVAIL and loop.time() < give_up_at:
            self._again = loop.call_later(self.LOOK_SECONDS, self._connect, give_up_at)
        else:
            self._refuse(code)

    def fin_link(self) -> None:
        """The workload has closed its socket, or its half of the connection: both look alike. Its kernel forgets a
        socket that is closed when the peer says nothing more (tcp_fin_timeout), so it is asked from time to time: where
        it has forgotten, it answers with RST, and the flow does not wait for the peer for ever.
        """
        super().fin_link()
        if self.datagrams is None:
            repair.keep_asking(self.context.kernel, self.leg)

    def retire_route(self) -> None:
        if isinstance(self.datagrams, Speakers):
            self.datagrams.close()
            return
        self._retire(nftables.flow_key(self.local, self.peer))

    def let_go(self) -> None:
        super().let_go()
        self._again = self._answer = None

    def reset_leg(self) -> None:
        self._stop_connecting()
        super().reset_leg()

    def close_leg(self) -> None:
        self._stop_connecting()
        super().close_leg()

    def _stop_connecting(self) -> None:
        if self._again:
            self._again.cancel()
        if self._connecting:
            self._connecting = False
            self.context.poller.forget(self.leg)

    def _on_connected(self) -> None:
        self._stop_connecting()
        code = self.leg.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._refuse(code)
            return
        if self._answer:
            self._answer("")
        self.tell(Event.LEG_CONNECTED)

    def _refuse(self, code: int) -> None:
        why = f"{self.local}: {os.strerror(code)}"
        if self._answer:
            self._answer(why)
        self.tell(Event.LEG_FAILED, why)
