"""A flow at the source changes over to a link that leads straight to the workload's newest pod."""

from __future__ import annotations

import asyncio

from proxy.core.flow import State
from proxy.core.wire import Switch
from proxy.io.dialling import Lost
from proxy.io.initiated import UNKNOWN, InitiatedLink, number
from proxy.io.pool import LinkPool
from proxy.io.source import SourceFlow


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
        self._refusal = ""

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
        """The workload had closed it before it moved: any other adopted flow's leg is there before the commit.

        A connection that a listener of ours took may wait there to be taken, while it is young and has not been ended.
        """
        young = self._loop.time() - self._flow.began < self.GIVE_UP_SECONDS
        waits = young and self._flow.direction == "accepted" and self._flow.state is not State.LINK_ENDED
        return self._refusal == UNKNOWN and not waits

    async def _ask(self) -> bool:
        while (former := self._flow.switching) and not former.done():
            await asyncio.shield(former)  # one after the other, or bytes could overtake each other
        if not self._flow.can_switch:
            return False
        self._answer = self._flow.switching = self._loop.create_future()
        self._flow.path.expect()
        opening = Switch(self._flow.number, number())
        InitiatedLink(self._flow.context, self._links, opening, self).dial(self.GIVE_UP_SECONDS)
        return await asyncio.shield(self._answer)

    def link_ready(self, link: InitiatedLink) -> None:
        """Nothing may be sent before the answer: the flow goes on as it was until then."""

    def link_accepted(self, link: InitiatedLink) -> None:
        if self._flow.can_switch:
            self._flow.succeed(link, self._via)
        elif self._flow.state is State.RESET:
            link.reset()
        else:  # it has ended meanwhile in order; at the other end, whose reader may be slow, it ends by the longer way
            link.end()
            link.detach()
        self._reply(not self._flow.is_over)

    def link_denied(self, link: InitiatedLink, lost: Lost) -> None:
        self._refusal = lost.refusal
        if self._flow.can_switch:
            self._flow.path.deny()
        self._reply(False)

    def _reply(self, done: bool) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(done)
