from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from proxy.api import Endpoint, Legs, Orphan, Orphaned, TakenOver, TakeOver
from proxy.core.errors import Code, ProxyError
from proxy.core.flow import State
from proxy.core.handshake import proof
from proxy.core.wire import Hello
from proxy.io.accepted import AcceptedLink
from proxy.io.adopted import foresee_leg
from proxy.io.inbound import MAX_TOKENS
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts

pytestmark = [parts.NEEDS_ROOT, pytest.mark.usefixtures("prepared")]


@pytest.fixture
async def moved(plane: Plane) -> AsyncIterator[parts.Moved]:
    plane.outbound["m"].links.close()  # its flow finds no connection, and is joined later
    made = parts.Moved(plane)
    made.adopt()
    made.build()
    yield made
    made.close()


def routes(plane: Plane) -> int:
    return plane._retirement._routing.flows


async def test_legs_are_built_once_and_routed(plane: Plane, moved: parts.Moved) -> None:
    assert plane.build("m", Legs(moved.legs)).built == 1
    assert routes(plane) == 1
    (flow,) = plane.inbound["m"].flows.values()
    assert flow.state is State.BUILT
    moved.commit()
    for _ in range(2):
        assert plane.resume("m").resumed == 1
    assert flow.state is State.RESUMED


async def test_another_controller_has_a_token_of_its_own(plane: Plane) -> None:
    """And the first one's is as good as before; whoever has neither is a stranger."""
    migration = plane.inbound["m"]
    tokens = [parts.TOKEN, *(f"{number:064x}" for number in range(1, MAX_TOKENS))]
    for token in tokens:
        assert plane.take_over("m", TakeOver(token)) == TakenOver("")
    for token in map(bytes.fromhex, tokens):
        assert migration.proved(b"n", Hello("m", proof(token, b"n", "m"))) == token
    assert migration.proved(b"n", Hello("m", proof(bytes(32), b"n", "m"))) is None
    assert plane.take_over("m", TakeOver(tokens[1])) == TakenOver("")
    for token, name, code in (("ff" * 32, "m", Code.CONFLICT), ("ff", "m", Code.BAD_REQUEST)):
        with pytest.raises(ProxyError) as raised:
            plane.take_over(name, TakeOver(token))
        assert raised.value.code is code


async def test_a_rollback_leaves_no_leg(plane: Plane, moved: parts.Moved) -> None:
    (flow,) = plane.inbound["m"].flows.values()
    assert plane.release_inbound("m").flows == 1
    assert flow.state is State.RELEASED
    assert flow.leg.fileno() < 0


@pytest.mark.parametrize(
    "change",
    [
        {"app": Endpoint("name", 1)},
        {"peer": Endpoint("::1", 1)},
        {"peer": Endpoint("10.0.0.1\0", 1)},
    ],
)
async def test_legs_that_make_no_sense(plane: Plane, moved: parts.Moved, change: dict[str, Endpoint]) -> None:
    leg = msgspec.structs.replace(moved.legs[0], flow=1, **change)
    with pytest.raises(ProxyError) as raised:
        plane.build("m", Legs([leg]))
    assert raised.value.code is Code.BAD_REQUEST
    assert routes(plane) == 1


async def test_a_flow_has_one_link(plane: Plane, moved: parts.Moved) -> None:
    migration = plane.inbound["m"]
    number = moved.legs[0].flow
    link = AcceptedLink(plane.context, 1, "somewhere", 10, migration.forget_link)
    here, there = parts.nonblocking_pair()
    with there:
        link.carry(here, 0)
        migration.awaiting(number).join(link)
        for wrong in (number, number + 1):
            with pytest.raises(ProxyError) as raised:
                migration.awaiting(wrong)
            assert raised.value.code is Code.CONFLICT
        plane.release_inbound("m")
        assert await parts.read(there, 1) == b""  # nothing was relayed, so nothing is said


@pytest.mark.parametrize("same_number", [True, False])
async def test_what_was_built_ahead_makes_way_for_the_leg_of_an_image(plane: Plane, same_number: bool) -> None:
    """Of the same flow, which goes by its image after all, or of the peer's next one, from the same port."""
    plane.outbound["m"].links.close()
    moved = parts.Moved(plane)
    moved.adopt()
    (leg,) = moved.legs
    number = leg.flow if same_number else leg.flow ^ 1
    other = foresee_leg(3, Endpoint("127.0.0.9", 4711), leg.app, 1460)
    ahead = Legs([foresee_leg(number, leg.peer, leg.app, 1460), other])
    assert plane.build_ahead("m", ahead).built == 2
    earlier = plane.inbound["m"].flows[number]
    moved.build()
    flows = plane.inbound["m"].flows
    assert set(flows) == {leg.flow, 3}
    assert earlier.state is State.RELEASED
    assert plane.context.legs[leg.app, leg.peer] is flows[leg.flow]
    moved.commit()
    assert plane.resume("m").resumed == 1  # the other was for nothing
    assert set(plane.inbound["m"].flows) == {leg.flow}
    moved.close()


async def test_flows_are_not_let_go_of_while_relayed(plane: Plane, moved: parts.Moved) -> None:
    moved.commit()
    plane.resume("m")
    with pytest.raises(ProxyError) as raised:
        plane.release_inbound("m")
    assert raised.value.code is Code.STILL_RELAYED
    assert plane.release_inbound("m", force=True).flows == 1


async def test_what_comes_from_a_proxy_that_is_gone_is_reset(plane: Plane, moved: parts.Moved) -> None:
    """What waits for a link, and what has one from there; not what came by another way."""
    with pytest.raises(ProxyError) as raised:
        plane.orphan("m", Orphan("127.0.0.1"))
    assert raised.value.code is Code.WRONG_STATE
    moved.commit()
    plane.resume("m")
    (flow,) = plane.inbound["m"].flows.values()
    flow.via = "127.0.0.3:4711"
    assert plane.orphan("m", Orphan("127.0.0.1")) == Orphaned(0)
    flow.via = ""
    assert plane.orphan("m", Orphan("127.0.0.1")) == Orphaned(1)
    with pytest.raises(ConnectionResetError):
        await parts.read(moved.app, 1)
    assert plane.orphan("m", Orphan("127.0.0.1")) == Orphaned(0)
