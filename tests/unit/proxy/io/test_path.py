"""A leg and its links, one after the other, on real sockets: links that note what is done with them."""

from __future__ import annotations

import socket
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.core.flow import Event
from proxy.core.stream import Mark
from proxy.io.accepted import AcceptedLink
from proxy.io.context import Context
from proxy.io.link import Link
from proxy.io.path import Path
from proxy.io.relay import finish, reset
from tests.harness import proxy_parts as parts

RELINK_SECONDS = 5.0


class Ways:
    """A path with its leg and the other proxy's ends of its links."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.peer, self.leg = parts.nonblocking_pair()
        self.told: list[Event] = []
        self.path = Path(context, self.leg, lambda event, why: self.told.append(event))
        self.others: list[Path] = []
        self.socks = [self.peer, self.leg]
        self.ends: list[socket.socket] = []
        self.path.first(self.link())
        self.path.relay()

    def link(self) -> AcceptedLink:
        """One whose other end is another path's, whose leg is `ends[-1]`'s other end."""
        pair = parts.nonblocking_pair()
        ours, theirs = (AcceptedLink(self.context, n, "", RELINK_SECONDS, lambda link: None) for n in (1, 2))
        end, leg = parts.nonblocking_pair()
        self.ends.append(end)
        self.socks += [end, leg]

        def tell(event: Event, why: str) -> None:
            if event is Event.LEG_EOF:
                other.finish_links()
            elif event is Event.LINK_EOF:
                finish(leg)

        other = Path(self.context, leg, tell)
        other.first(theirs)
        other.relay()
        self.others.append(other)
        for link, sock in ((ours, pair[0]), (theirs, pair[1])):
            link.carry(sock, 0)
        return ours

    def close(self) -> None:
        for path in (self.path, *self.others):
            path.stop()
        self.context.close_links()
        for sock in self.socks:
            sock.close()


@pytest.fixture
async def ways() -> AsyncIterator[Ways]:
    async with parts.context() as context:
        made = Ways(context)
        yield made
        made.close()


async def both_ways(one: socket.socket, other: socket.socket) -> None:
    for giver, taker in ((one, other), (other, one)):
        giver.send(b"hello")
        assert await parts.read(taker, 5) == b"hello"


async def test_bytes_go_both_ways_and_are_counted(ways: Ways) -> None:
    assert ways.path.relays_both_ways
    await both_ways(ways.peer, ways.ends[0])
    assert (ways.path.tally.from_leg_bytes, ways.path.tally.from_link_bytes) == (5, 5)
    given, taken, _, waiting = ways.path.tally.first_link()
    assert (given, taken, waiting) == (5, 5, 0)


async def test_before_its_first_link_it_has_nothing_to_tell(ways: Ways) -> None:
    path = Path(ways.context, ways.leg, lambda event, why: None)
    assert path.link is None
    assert path.tally.first_link() == (0, 0, 0, 0)
    assert not path.relays_both_ways


async def test_a_successor_takes_over_when_the_first_link_has_been_read_to_its_end(ways: Ways) -> None:
    await both_ways(ways.peer, ways.ends[0])
    ways.path.expect()
    ways.path.succeed(ways.link())
    ways.peer.send(b"the new way")
    assert await parts.read(ways.ends[1], 11) == b"the new way"
    ways.ends[1].send(b"second")
    ways.ends[0].send(b"first, ")
    ways.ends[0].shutdown(socket.SHUT_WR)
    assert await parts.read(ways.peer, 13) == b"first, second"
    await parts.eventually(lambda: len(ways.path.links) == 1)
    assert ways.told == []
    assert ways.path.link is ways.path.links[0]
    assert ways.path.tally.first_link()[:2] == (5, 12)


async def test_however_often_the_workload_moves_on_the_old_links_are_freed_and_what_went_over_them_counts(
    ways: Ways,
) -> None:
    old: list[weakref.ref[Link]] = []
    for number in range(5):
        await both_ways(ways.peer, ways.ends[number])
        ways.path.expect()
        ways.path.succeed(ways.link())
        ways.ends[number].shutdown(socket.SHUT_WR)
        old += [weakref.ref(link) for link in ways.path.links[:-1]]
        await parts.eventually(lambda: len(ways.path.links) == 1)
    await both_ways(ways.peer, ways.ends[5])
    tally = ways.path.tally
    assert (tally.from_leg_bytes, tally.from_link_bytes, tally.first_link()) == (30, 30, (5, 5, 0, 0))
    assert len(old) == 5
    ways.others.clear()
    await parts.eventually(lambda: not any(gone() for gone in old))


async def test_an_end_that_came_before_the_refusal_is_told_then(ways: Ways) -> None:
    ways.path.expect()
    ways.ends[0].shutdown(socket.SHUT_WR)
    link = ways.path.link
    assert link
    await parts.eventually(lambda: link.incoming.mark)
    assert ways.told == []
    ways.path.deny()
    await parts.eventually(lambda: ways.told == [Event.LINK_EOF])


async def test_the_legs_end_goes_to_the_newest_link(ways: Ways) -> None:
    ways.peer.shutdown(socket.SHUT_WR)
    await parts.eventually(lambda: ways.told == [Event.LEG_EOF])
    ways.path.succeed(ways.link())
    assert await parts.read(ways.ends[1], 1) == b""


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (lambda ways: reset(ways.peer), Event.LEG_FAILED),
        (lambda ways: ways.others[0].reset_links(), Event.LINK_FAILED),
    ],
)
async def test_a_reset_of_either_side_is_told(ways: Ways, end: Callable[[Ways], None], event: Event) -> None:
    end(ways)
    await parts.eventually(lambda: ways.told == [event])


async def test_its_links_are_let_go_of_in_silence(ways: Ways) -> None:
    (link,) = ways.path.links
    ways.path.stop()
    ways.path.abandon_links()
    assert link.is_over
    assert ways.told == []


async def ended_behind_what_the_peer_does_not_take(ways: Ways) -> None:
    """The stream from the link has come to its end, and the leg has no room for the bytes before that."""
    ways.leg.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
    ways.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
    assert ways.ends[0].send(bytes(200_000)) == 200_000
    ways.ends[0].shutdown(socket.SHUT_WR)
    link = ways.path.link
    assert link
    await parts.eventually(lambda: link.incoming.mark)
    assert not link.incoming.handed_on


async def test_an_end_that_is_dropped_with_the_leg_is_not_told(ways: Ways) -> None:
    await ended_behind_what_the_peer_does_not_take(ways)
    ways.path.stop()
    assert ways.told == []


async def test_the_failure_of_a_leg_is_told_before_the_end_that_is_dropped_with_it(ways: Ways) -> None:
    ways.peer.shutdown(socket.SHUT_WR)
    await parts.eventually(lambda: ways.told == [Event.LEG_EOF])
    await ended_behind_what_the_peer_does_not_take(ways)
    reset(ways.peer)
    await parts.eventually(lambda: len(ways.told) > 1)
    assert ways.told[1] is Event.LEG_FAILED


async def test_a_successor_that_the_other_end_has_not_ended_yet_ends_in_order(ways: Ways) -> None:
    """Both streams have ended over the link before it: that the first one has is still to be said on this one."""
    ways.ends[0].shutdown(socket.SHUT_WR)
    await parts.eventually(lambda: ways.told == [Event.LINK_EOF])
    ways.path.succeed(ways.link())
    ways.peer.shutdown(socket.SHUT_WR)
    await parts.eventually(lambda: ways.told == [Event.LINK_EOF, Event.LEG_EOF])
    ways.path.finish_links()
    ways.path.close_links()
    ours, theirs = ways.path.link, ways.others[1].link
    assert ours
    assert theirs
    await parts.eventually(lambda: theirs.incoming.mark)
    assert theirs.incoming.mark is Mark.END
    theirs.end()
    theirs.detach()
    await parts.eventually(lambda: ours.is_over and theirs.is_over)
