"""Connections both ends of which are made ahead of the freeze: as the source's proxy names and takes them, and as the
destination's has their legs. The copy's ends are the agent's, and real."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from checkpoint.api import Socket
from checkpoint.kernel import Kernel
from checkpoint.sockets import ends, legs
from proxy.api import Endpoint, Leg, Legs, PairedLeg
from proxy.core.errors import Code, ProxyError
from proxy.core.flow import State
from proxy.core.ledger import TcpState
from proxy.io.adopted import ForeseenSocket, PairedSocket
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.proxy_image import Image

pytestmark = [parts.NEEDS_ROOT, pytest.mark.usefixtures("prepared")]

NUMBER = 7


class Ahead:
    """A connection of a workload's that still runs, its leg, and the copy's end of it."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.peer, self.workload = parts.tcp_pair()
        local, peer = (Endpoint(*one) for one in (self.workload.getsockname(), self.workload.getpeername()))
        self.foreseen = ForeseenSocket(NUMBER, local, peer, "inbound", 1400)
        self.legs = plane.outbound["m"].foresee([self.foreseen])
        plane.build_ahead("m", Legs(self.legs))
        (numbers,) = legs.numbers_of(msgspec.Raw(msgspec.json.encode(self.legs)))
        wanted = Socket(socket.AF_INET, 0, (0, 0), [], reuse_address=True)
        self.copy = ends.make(Kernel(), wanted, numbers)

    def take(self, unread: int = 0) -> list[PairedLeg]:
        return self.plane.outbound["m"].take([PairedSocket(NUMBER, unread)], [self.workload.dup()])

    def go_on(self, paired: list[PairedLeg]) -> None:
        """From the adoption to the end of the move."""
        self.plane.build("m", Legs([], paired))
        ends.finish(Kernel(), self.copy, reuse_address=True)
        self.workload.close()
        self.plane.resume("m")
        self.plane.repoint("m")
        for one in (self.peer, self.copy):
            one.setblocking(False)

    def close(self) -> None:
        for one in (self.peer, self.workload, self.copy):
            one.close()


@pytest.fixture
async def ahead(plane: Plane) -> AsyncIterator[Ahead]:
    made = Ahead(plane)
    yield made
    made.close()


def state_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


async def test_what_was_unread_and_what_comes_later_reach_the_copy_in_order(plane: Plane, ahead: Ahead) -> None:
    ahead.peer.sendall(b"unread ")
    ahead.workload.recv(7, socket.MSG_PEEK | socket.MSG_WAITALL)
    ahead.workload.sendall(b"unheard ")
    paired = ahead.take(unread=7)
    assert paired[0].unread == b"unread "
    ahead.plane.build("m", Legs([], paired))
    ends.finish(Kernel(), ahead.copy, reuse_address=True)
    assert ahead.copy.recv(20, socket.MSG_DONTWAIT) == b"unread "  # before it runs
    ahead.peer.sendall(b"held ")
    ahead.go_on(paired)
    ahead.peer.sendall(b"later")
    assert await parts.read(ahead.copy, 10) == b"held later"
    ahead.copy.sendall(b"answered")
    assert await parts.read(ahead.peer, 16) == b"unheard answered"
    (there,), (here,) = plane.outbound_ledger("m"), plane.inbound_ledger("m")
    assert (there.unread_bytes, there.held_bytes) == (7, 5)
    assert (there.to_app_bytes, here.to_app_bytes, there.to_peer_bytes, here.to_peer_bytes) == (10, 10, 8, 8)


async def test_said_twice_it_is_taken_once(plane: Plane, ahead: Ahead) -> None:
    assert ahead.take() == ahead.take()
    assert len(plane.outbound["m"].flows) == 1
    for _ in range(2):
        plane.build("m", Legs([], ahead.take()))
    assert plane.inbound["m"].built == 1


async def test_what_is_not_taken_vanishes_in_silence(plane: Plane, ahead: Ahead) -> None:
    (flow,) = plane.inbound["m"].flows.values()
    plane.resume("m")
    assert flow.state is State.RELEASED
    assert not plane.inbound["m"].flows
    await asyncio.sleep(0.02)  # what could have been said would have been heard, over lo
    assert state_of(ahead.copy) == TcpState.ESTABLISHED
    assert ahead.peer.send(b"it goes on where it was") == 23
    assert ahead.workload.recv(23, socket.MSG_WAITALL) == b"it goes on where it was"


@pytest.mark.parametrize("taken", [False, True])
async def test_a_rollback_is_silent_and_all_can_be_made_again(plane: Plane, ahead: Ahead, taken: bool) -> None:
    if taken:
        plane.build("m", Legs([], ahead.take()))
    plane.release_inbound("m")
    plane.release_outbound("m")
    assert state_of(ahead.copy) == TcpState.ESTABLISHED
    ends.discard(Kernel(), ahead.copy)
    await parts.prepared(plane)
    again = plane.outbound["m"].foresee([ahead.foreseen])
    assert plane.build_ahead("m", Legs(again)).built == 1


async def test_what_was_built_in_an_earlier_call_makes_room(plane: Plane, ahead: Ahead) -> None:
    """As where pre-copy was in vain, and everything is prepared anew: under another number, between the same ends."""
    (before,) = plane.inbound["m"].flows.values()
    ends.discard(Kernel(), ahead.copy)
    again = msgspec.structs.replace(ahead.foreseen, flow=NUMBER + 1)
    assert plane.build_ahead("m", Legs(plane.outbound["m"].foresee([again]))).built == 1
    assert before.state is State.RELEASED
    assert plane.build_ahead("m", Legs([])).built == 0


async def test_one_that_goes_by_its_image_after_all_is_built_anew(plane: Plane, ahead: Ahead) -> None:
    """Under the number that it had: CRIU has seen it."""
    (before,) = plane.inbound["m"].flows.values()
    ends.discard(Kernel(), ahead.copy)
    image = Image(ahead.workload)
    item = msgspec.structs.replace(parts.wanted(image), flow=NUMBER)
    legs = plane.outbound["m"].adopt([item], [ahead.workload.dup()])
    plane.build("m", Legs(legs))
    (flow,) = plane.inbound["m"].flows.values()
    assert flow is not before
    assert (before.state, flow.state) == (State.RELEASED, State.BUILT)


async def test_what_was_not_foreseen_or_not_built(plane: Plane, ahead: Ahead) -> None:
    migration, spare = plane.outbound["m"], ahead.workload.dup()
    with spare, pytest.raises(ProxyError) as raised:
        migration.take([PairedSocket(NUMBER + 1, 0)], [spare])
    assert raised.value.code is Code.BAD_REQUEST
    with pytest.raises(ProxyError) as raised:
        plane.build("m", Legs([], [PairedLeg(NUMBER + 1)]))
    assert raised.value.code is Code.CONFLICT


async def test_more_unread_than_there_is_is_no_such_connection(plane: Plane, ahead: Ahead) -> None:
    ahead.peer.sendall(b"12")
    ahead.workload.recv(2, socket.MSG_PEEK | socket.MSG_WAITALL)
    with ahead.workload.dup() as spare, pytest.raises(ProxyError) as raised:
        plane.outbound["m"].take([PairedSocket(NUMBER, 3)], [spare])
    assert raised.value.code is Code.LEDGER_VIOLATED
    assert not plane.outbound["m"].flows


async def test_nothing_is_foreseen_once_it_is_adopted(plane: Plane, ahead: Ahead) -> None:
    ahead.take()
    with pytest.raises(ProxyError) as raised:
        plane.outbound["m"].foresee([ahead.foreseen])
    assert raised.value.code is Code.WRONG_STATE


def test_a_leg_that_is_foreseen_is_a_leg(ahead: Ahead) -> None:
    (leg,) = ahead.legs
    assert msgspec.convert(msgspec.to_builtins(leg), Leg) == leg
    assert (leg.flow, leg.app.host, leg.mss) == (NUMBER, "127.0.0.2", 1400)


async def test_a_hold_that_lasts_is_bounded_like_any_other(plane: Plane, ahead: Ahead) -> None:
    """What was only glanced at before is looked at for that; the workload can go on with its socket all the same."""
    ahead.take()
    (flow,) = plane.outbound["m"].flows.values()
    assert flow.live is None
    plane.outbound["m"]._limit.set(4096)
    assert flow.live is not None
    assert flow.live.offered > 0
    plane.release_outbound("m")
    ahead.peer.sendall(b"on")
    assert ahead.workload.recv(2, socket.MSG_WAITALL) == b"on"  # in repair mode it could not be read
