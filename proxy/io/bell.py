"""How an acceptor has a link woken: only its initiator can see to a connection. It rings.

A bell is a link of no flow's (`proxy.core.wire.Bell`), from the initiator's pool to the acceptor's migration: there
from the moment that the first link sleeps until the last of those that have slept is over. Its stream are the numbers
of links. Being a link it is made again when its connection breaks, and says then what had not been heard; and where it
is lost, the other proxy is, and with it whatever sleeps: nobody would hear of that otherwise.
"""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from proxy.core.stream import HEADER_BYTES, MAX_DATA_BYTES
from proxy.io.dialling import Lost
from proxy.io.relay import Scratch
from proxy.sys import address

if TYPE_CHECKING:
    from proxy.io.accepted import AcceptedLink
    from proxy.io.link import Link

_NUMBER = struct.Struct("!Q")
_AT_ONCE = (MAX_DATA_BYTES - HEADER_BYTES) // _NUMBER.size
AGAIN_SECONDS = 0.5
"""After which a bell that rings without end has been heard."""


class Sleeper(Protocol):
    """A link at its initiator."""

    number: int

    @property
    def is_asleep(self) -> bool: ...
    def wake(self) -> None: ...
    def lose(self, reason: str) -> None: ...


class Bell:
    """The initiator's end, of one pool: hears which links are to be woken."""

    def __init__(self, hang: Callable[[Bell], Link]) -> None:
        """`hang` dials its link, whose owner it is."""
        self._hang = hang
        self._link: Link | None = None
        self._sleepers: dict[int, Sleeper] = {}
        """Those that sleep or have slept, by number."""
        self._heard = bytearray()
        self._answered = asyncio.Event()

    async def hang(self) -> bool:
        """Before anybody sleeps. Whether it is there."""
        self._hang_up()
        await self._answered.wait()
        return self._link is not None

    def add(self, link: Sleeper) -> None:
        """It may be rung for from now on, or soon."""
        self._sleepers[link.number] = link
        self._hang_up()

    def discard(self, link: Sleeper) -> None:
        """It is over."""
        if self._sleepers.pop(link.number, None):
            self.settle()

    def settle(self) -> None:
        """Take it down, unless it may be rung for somebody."""
        if self._link and not self._sleepers:
            bell, self._link = self._link, None
            bell.end()

    def _hang_up(self) -> None:
        if self._link is None:
            self._answered.clear()
            self._link = self._hang(self)

    # What its link says

    def link_ready(self, link: Link) -> None:
        self._heard.clear()
        link.attach(self)
        link.take_to(self, lambda: None)

    def link_accepted(self, link: Link) -> None:
        self._answered.set()

    def link_denied(self, link: Link, lost: Lost) -> None:
        self._lose(link, lost.why)

    def link_ended(self, link: Link) -> None:
        """The other end's answer to the end of this one; or it has no such links any more."""
        self._lose(link, "the other proxy has given up its sleeping links")
        link.end()
        link.detach()

    def link_failed(self, link: Link, why: str) -> None:
        self._lose(link, why)

    def _lose(self, link: Link, why: str) -> None:
        if link is not self._link:
            return
        self._link = None
        self._answered.set()
        for sleeper in [one for one in self._sleepers.values() if one.is_asleep]:
            sleeper.lose(why)

    # As its link's leg

    def fileno(self) -> int:
        return -1

    def send(self, data: memoryview) -> int:
        """Numbers, or pieces of them. Unknown ones are of links that have ended meanwhile."""
        self._heard += data
        whole = len(self._heard) // _NUMBER.size * _NUMBER.size
        numbers = [number for (number,) in _NUMBER.iter_unpack(bytes(self._heard[:whole]))]
        del self._heard[:whole]
        for number in numbers:
            if sleeper := self._sleepers.get(number):
                sleeper.wake()
        return len(data)

    def sendmsg(self, pieces: Iterable[memoryview]) -> int:
        return sum(map(self.send, pieces))


class _Deaf:
    """A leg for what nobody says."""

    def fileno(self) -> int:
        return -1

    def send(self, data: memoryview) -> int:
        return len(data)

    def sendmsg(self, pieces: Iterable[memoryview]) -> int:
        return sum(map(len, pieces))


class Bells:
    """The acceptor's ends, of one migration: one for each proxy that has links of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, scratch: Scratch, links: Callable[[], Iterable[Link]]) -> None:
        """`links`: all of the migration's."""
        self._loop, self._scratch, self._links = loop, scratch, links
        self._bells: dict[str, AcceptedLink] = {}
        """By the initiator's address."""
        self._rung: defaultdict[str, list[int]] = defaultdict(list)
        """What has not been said yet."""

    @property
    def first(self) -> str:
        """By where the first one came, if one is there: the proxy that gives the migration its flows has hung it before
        it adopts any."""
        return next((bell.via for bell in self._bells.values()), "")

    def hang(self, bell: AcceptedLink) -> None:
        bell.stay()
        host = address.host_of(bell.via)
        self._bells[host] = bell
        bell.attach(self)
        bell.take_to(_Deaf(), lambda: None)
        self._say(host)

    def ring(self, link: AcceptedLink) -> None:
        """Said together with others, a moment later; or when there is a bell."""
        host = address.host_of(link.via)
        if not self._rung[host]:
            self._loop.call_soon(self._say, host)
        self._rung[host].append(link.number)

    def _say(self, host: str) -> None:
        bell, rung = self._bells.get(host), self._rung[host]
        if bell is None or not rung:
            return
        if bell.outgoing.room < MAX_DATA_BYTES:
            self._loop.call_later(AGAIN_SECONDS, self._say, host)
            return
        said = b"".join(map(_NUMBER.pack, rung[:_AT_ONCE]))
        self._scratch.body[: len(said)] = said
        del rung[:_AT_ONCE]
        bell.give(len(said))
        self._say(host)

    def close(self) -> None:
        """The migration is forgotten, and its links with it."""
        while self._bells:
            bell = self._bells.popitem()[1]
            bell.end()
            bell.detach()

    # What a bell says

    def link_ended(self, link: Link) -> None:
        """The initiator has no such links any more."""
        self._take_down(link)
        link.end()
        link.detach()

    def link_failed(self, link: Link, why: str) -> None:
        if host := self._take_down(link):
            reason = why or "the other proxy has given up its sleeping links"
            for sleeper in [one for one in self._links() if one.is_asleep and address.host_of(one.via) == host]:
                sleeper.lose(reason)

    def _take_down(self, link: Link) -> str:
        """Where it came from, if it was the one that is rung."""
        host = next((host for host, bell in self._bells.items() if bell is link), "")
        if host:
            del self._bells[host]
        return host
