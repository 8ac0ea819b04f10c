from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from proxy.api import Endpoint
from proxy.core.datagram import Datagram, Decoder, encode
from proxy.io import datagrams
from proxy.io.context import Context
from proxy.io.datagrams import HeldDatagrams, Speakers
from proxy.io.retirement import Retirement
from tests.harness import proxy_parts as parts

pytestmark = parts.NEEDS_ROOT
NOBODY = Endpoint("0.0.0.0", 0)


@contextmanager
def udp(peer: tuple[str, int] | None = None, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        # Here a peer and its stand-in are on one machine. Only now: of two that may share a port both may get the same.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if peer:
            sock.connect(peer)
        sock.setblocking(False)
        yield sock


def end(sock: socket.socket) -> Endpoint:
    return Endpoint(*sock.getsockname()[:2])


class Joined:
    """Both ends, joined leg to leg as two proxies join them; the workload's socket is `app`."""

    def __init__(self, context: Context, old: socket.socket, app: socket.socket, peer: Endpoint = NOBODY) -> None:
        self.retirement = Retirement(context.loop, parts.quiet_routing())
        self.retirement.begin()
        self.held = HeldDatagrams(context, old.dup(), end(old), peer, 7)
        self.speakers = Speakers(context, self.retirement, end(app), peer)
        self.legs = self.held.repoint({"127.0.0.1": "127.0.0.1"}), self.speakers.leg
        for source, target in (self.legs, self.legs[::-1]):
            context.poller.read(source, lambda source=source, target=target: target.send(source.recv(1 << 20)))
        self._context = context

    def close(self) -> None:
        for leg in self.legs:
            self._context.poller.forget(leg)
            leg.close()
        self.speakers.close()
        self.held.close()
        self.retirement.close()


async def test_there_with_the_senders_address_and_back(context: Context) -> None:
    with udp() as old, udp() as peer:
        peer.sendto(b"waiting", old.getsockname())
        # The port differs in the test alone: one machine cannot have the same one twice.
        with udp() as app:
            joined = Joined(context, old, app)
            assert not joined.held.is_idle
            spoken = await receive(app)
            assert spoken[0] == b"waiting"
            joined.close()
            assert (joined.held.is_idle, joined.held.dropped) == (False, 0)


async def test_who_asked_here_hears_from_here_and_not_by_a_stand_in(context: Context) -> None:
    """It comes back to where it was asked: the workload is there again, and answers natively."""
    with udp() as app, udp() as asker, udp() as other:
        here, there = ((end(app), end(sock)) for sock in (asker, other))
        speakers, retirement = speaking(context, end(app))
        context.askers.heard(here)
        for _, peer in (here, there):
            speakers.leg.send(encode(Datagram(peer, "127.0.0.1", b"where?")))
        assert [await receive(app) for _ in range(2)] == [(b"where?", sock.getsockname()) for sock in (asker, other)]
        assert list(context.askers.stand_ins) == [there]
        app.sendto(b"here", asker.getsockname())
        assert await receive(asker) == (b"here", app.getsockname())
        ended(speakers, retirement)
        assert not context.askers.stand_ins


async def test_two_flows_have_one_stand_in_for_the_same_ends(context: Context) -> None:
    """The first one's: it has the way back to who asked."""
    with udp() as app, udp() as asker:
        one, other = (speaking(context, end(app)) for _ in range(2))
        for speakers, _ in (one, other):
            speakers.leg.send(encode(Datagram(end(asker), "127.0.0.1", b"where?")))
            await receive(app)
        (made,) = context.askers.stand_ins.values()
        assert list(one[0]._stand_ins.values()) == [made]
        ended(*other)
        assert made.sock.fileno() >= 0
        ended(*one)


async def test_a_connected_socket_speaks_for_itself_where_it_was_connected(context: Context) -> None:
    with udp() as server:
        peer = end(server)
        with udp(server.getsockname()) as old:
            held = HeldDatagrams(context, old.dup(), end(old), peer, 7)
            leg = held.repoint({"127.0.0.1": "127.0.0.1"})
            home, retirement = speaking(context, end(old), peer)
            home.begin()
            assert not context.askers.stand_ins
            held.close()
            home.begin()
            assert [each.lasting for each in context.askers.stand_ins.values()] == [True]
            ended(home, retirement)
            leg.close()


async def test_only_the_peers_own_questions_are_direct(context: Context) -> None:
    """What comes before the repoint, after it, and at the very last."""
    with udp() as old, udp() as peer, udp() as relayed:
        old_end = end(old)
        with datagrams.datagrams.speaker(context.kernel, end(relayed), old_end) as stand_in:
            stand_in.send(b"one")
            peer.sendto(b"two", old.getsockname())
            held = HeldDatagrams(context, old.dup(), old_end, NOBODY, 7)
            leg = held.repoint({"127.0.0.1": "127.0.0.1"})
            stand_in.send(b"three")
        held.hand_over()
        held.hand_over()
        assert context.askers.is_direct((old_end, end(peer)))
        assert not context.askers.is_direct((old_end, end(relayed)))
        assert [one.payload for one in Decoder().feed(leg.recv(1000))] == [b"one", b"two", b"three"]
        assert leg.recv(1000) == b""
        leg.close()


def speaking(context: Context, app: Endpoint, peer: Endpoint = NOBODY) -> tuple[Speakers, Retirement]:
    """A destination's end."""
    retirement = Retirement(context.loop, parts.quiet_routing())
    retirement.begin()
    return Speakers(context, retirement, app, peer), retirement


def ended(speakers: Speakers, retirement: Retirement) -> None:
    speakers.leg.close()
    speakers.close()
    retirement.close()


async def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    found: list[tuple[bytes, tuple[str, int]]] = []

    def try_it() -> bool:
        try:
            found.append(sock.recvfrom(99))
        except BlockingIOError:
            return False
        return True

    await parts.eventually(try_it)
    return found[0]


async def test_a_stream_that_is_full_leaves_the_rest_to_the_kernel(context: Context) -> None:
    sent = got = 0

    def send() -> None:
        nonlocal sent
        sent += peer.sendto(bytes(8000), old.getsockname()) == 8000

    def drain() -> bool:
        nonlocal got
        with suppress(BlockingIOError):
            got += len(leg.recv(1 << 20))
        return got == (sent - held.dropped) * 8013

    with udp() as old, udp() as peer:
        held = HeldDatagrams(context, old.dup(), end(old), NOBODY, 7)
        leg = held.repoint({"127.0.0.1": "127.0.0.1"})
        await parts.eventually(lambda: (send(), held._stream and held._stream.full)[1])
        await parts.eventually(lambda: (send(), held.dropped)[1])
        await parts.eventually(drain)
        held.close()
        assert leg.recv(10) == b""
        leg.close()


async def test_garbage_in_the_stream_ends_it(context: Context) -> None:
    with udp() as old:
        held = HeldDatagrams(context, old.dup(), end(old), NOBODY, 7)
        leg = held.repoint({})
        leg.send(b"GET /")
        await parts.eventually(lambda: held._sock.fileno() < 0)
        leg.close()


async def test_a_peer_that_is_silent_is_forgotten_and_one_that_is_connected_is_not(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with udp() as one, udp() as other, udp() as app:
        peer, lasting = (Endpoint("127.0.0.9", end(each).port) for each in (one, other))
        retirement = Retirement(context.loop, parts.quiet_routing())
        retirement.begin()
        speakers = Speakers(context, retirement, end(app), lasting)
        speakers.begin()
        speakers._stand_in((end(app), peer), lasting=False)
        assert len(speakers._stand_ins) == 2
        monkeypatch.setattr(datagrams, "IDLE_SECONDS", -1.0)
        speakers._look()
        assert [ends[1] for ends in speakers._stand_ins] == [lasting]
        assert speakers.is_idle
        monkeypatch.setattr(datagrams, "MAX_PEERS", 1)
        speakers._stand_in((end(app), peer), lasting=False)
        assert [ends[1] for ends in speakers._stand_ins] == [peer]
        speakers.leg.close()
        speakers.close()
        retirement.close()


async def test_what_cannot_be_said_is_counted(context: Context) -> None:
    with udp() as app:
        retirement = Retirement(context.loop, parts.quiet_routing())
        retirement.begin()
        speakers = Speakers(context, retirement, end(app), NOBODY)
        one = Datagram(Endpoint("127.0.0.9", 4711), "255.255.255.255", b"x")
        speakers.leg.send(encode(one))
        await parts.eventually(lambda: speakers.dropped == 1)
        speakers.leg.close()
        speakers.close()
        retirement.close()


class Words:
    """Who would hear what sockets say first."""

    def __init__(self) -> None:
        self.listening: list[tuple[Endpoint, Callable[[Datagram], None]]] = []

    def listen(self, app: Endpoint, heard: Callable[[Datagram], None]) -> None:
        self.listening.append((app, heard))

    def forget(self, app: Endpoint, heard: Callable[[Datagram], None]) -> None:
        if (app, heard) in self.listening:
            self.listening.remove((app, heard))


async def test_what_the_workload_says_first_goes_back_by_the_stream(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before the workload runs until a moment later. Without room it is counted."""
    monkeypatch.setattr(datagrams, "FIRST_SECONDS", 0.01)
    words = context.first_words = Words()
    with udp() as app:
        speakers, retirement = speaking(context, end(app))
        ((listened, heard),) = words.listening
        assert listened == end(app)
        one = Datagram(Endpoint("127.0.0.9", 4711), "127.0.0.1", b"x" * 60_000)
        heard(one)
        assert speakers.leg.recv(1 << 20) == encode(one)
        while not speakers.dropped:
            heard(one)
        speakers.begin()
        await parts.eventually(lambda: not words.listening)
        ended(speakers, retirement)


async def test_nothing_is_heard_first_where_the_workload_comes_home_or_never_runs(context: Context) -> None:
    words = context.first_words = Words()
    with udp() as app, udp() as old:
        held = HeldDatagrams(context, old.dup(), end(app), NOBODY, 7)
        gone, retirement = speaking(context, end(app))
        assert words.listening
        ended(gone, retirement)
        assert not words.listening
        leg = held.repoint({})
        home, retirement = speaking(context, end(app))
        assert not words.listening
        held.close()
        ended(home, retirement)
        again, retirement = speaking(context, end(app))
        assert words.listening
        ended(again, retirement)
        leg.close()
