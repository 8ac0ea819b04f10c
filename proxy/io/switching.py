"""A flow at the source changes over to a link that leads straight to the workload's newest pod."""

from __future__ import annotations

import asyncio
import socket

from proxy.core.errors import Code
from proxy.core.flow import ENDED, Event, State
from proxy.core.wire import Switch
from proxy.io.link import DialledLink, LinkPool
from proxy.io.relay import end, reset
from proxy.io.source import SourceFlow

UNKNOWN = Code.CONFLICT.name.lower()


class Switching:
    """One flow's change: ask, be accepted, change over; asked again while the destination does not know the flow yet.

    Until it is accepted nothing has changed, and if it never is, nothing will: the flow stays on its longer way.
    """

    RETRY_SECONDS, GIVE_UP_SECONDS = 0.05, 5.0

    def __init__(self, flow: SourceFlow, links: LinkPool, via: str) -> None:
        self._flow = flow
        self._links = links
        self._via = via
        self._loop = flow.context.loop
        self._answer: asyncio.Future[bool] | None = None
        self._link: DialledLink | None = None

    async def run(self) -> bool:
        """Whether the flow has its new link."""
        deadline = self._loop.time() + self.GIVE_UP_SECONDS
        while not self._flow.is_over and self._loop.time() < deadline:
            if self._flow.can_switch:
                try:
                    async with asyncio.timeout_at(deadline):
                        if await self._ask():
                            return True
                        if self._is_unknown_for_good():
                            return False
                except TimeoutError:
                    return False  # the answer may still come, and is heeded then
            await asyncio.sleep(self.RETRY_SECONDS)
        return False

    def _is_unknown_for_good(self) -> bool:
        """The workload has closed its end before it moved, unless the flow is so young that it is on its way there."""
        young = self._loop.time() - self._flow.began < self.GIVE_UP_SECONDS
        return self._link is not None and self._link.refusal == UNKNOWN and not young

    async def _ask(self) -> bool:
        while (former := self._flow.switching) and not former.done():
            await asyncio.shield(former)  # one after the other, or bytes could overtake each other
        if not self._flow.can_switch:
            return False
        self._answer = self._flow.switching = self._loop.create_future()
        self._flow.path.expect()
        self._link = self._links.ask(Switch(self._flow.number), self)
        return await asyncio.shield(self._answer)

    def link_sendable(self, link: DialledLink) -> None:
        """Nothing may be sent before the answer: the flow goes on as it was until then."""

    def link_accepted(self, rest: bytes) -> None:
        assert self._link
        sock = self._link.sock
        if self._flow.can_switch:
            self._flow.succeed(sock, rest, self._via)
        else:
            self._too_late(sock)
        self._reply(self._flow.state not in ENDED)

    def link_lost(self, why: str, sent: bool) -> None:
        link = self._link
        if link and link.sock.fileno() >= 0:
            self._flow.context.poller.forget(link.sock)
            end(link.sock)
        if self._flow.can_switch:
            if sent and link and not link.refusal:  # whether it was accepted is not known, so neither what may be lost
                self._flow.tell(Event.LINK_FAILED, why)
            else:
                self._flow.path.deny()
        self._reply(False)

    def _too_late(self, sock: socket.socket) -> None:
        """The flow has ended meanwhile: the other end learns how."""
        self._flow.context.poller.forget(sock)
        if self._flow.state is State.RESET:
            reset(sock)
        else:
            end(sock)

    def _reply(self, done: bool) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(done)
