from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.core.ledger import TcpState
from proxy.io import retirement
from proxy.io.retirement import Retirement, is_needed
from proxy.sys import nftables
from proxy.sys.tcp_states import Ends
from tests.harness import proxy_parts as parts

ONE, TWO = bytes(16), bytes(15) + b"\1"
DATAGRAMS = nftables.datagram_key(Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 2))
ALIVE = Ends(TcpState.ESTABLISHED, TcpState.FIN_WAIT1)


@pytest.mark.parametrize(
    ("app", "peer", "needed"),
    [
        (TcpState.ESTABLISHED, TcpState.ESTABLISHED, True),  # to be reset, when it has its last bytes
        (TcpState.TIME_WAIT, TcpState.LAST_ACK, True),
        (None, TcpState.FIN_WAIT1, True),
        (TcpState.LAST_ACK, TcpState.TIME_WAIT, True),
        (TcpState.CLOSING, TcpState.TIME_WAIT, True),
        (None, TcpState.TIME_WAIT, False),
        (TcpState.TIME_WAIT, TcpState.TIME_WAIT, False),
        (TcpState.SYN_RECV, TcpState.TIME_WAIT, False),  # the peer comes again, from the same port, directly
        (TcpState.ESTABLISHED, None, False),
        (TcpState.TIME_WAIT, None, False),
        (TcpState.LAST_ACK, TcpState.CLOSE, False),
        (None, None, False),
    ],
)
def test_a_route_is_needed_as_long_as_the_leg_may_still_be_spoken_to(
    app: TcpState | None, peer: TcpState | None, needed: bool
) -> None:
    assert is_needed(Ends(app, peer)) is needed


async def test_keys_go_a_little_after_their_flow() -> None:
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE, TWO])
    made.retire(ONE)
    assert routing.flows == 2
    await parts.eventually(lambda: routing.flows == 1)
    made.retire(TWO)
    made.retire(ONE)  # of a flow that has no route any more: fine
    await parts.eventually(lambda: routing.flows == 0)
    made.end()
    made.close()


async def test_a_key_that_is_used_again_stays() -> None:
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE])
    made.retire(ONE)
    made.use([ONE])
    await asyncio.sleep(0.1)
    assert routing.flows == 1
    made.close()


async def test_a_key_stays_as_long_as_anybody_uses_it() -> None:
    """A flow that ends behind its successor, which has the same ends."""
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE])
    made.use([ONE])
    made.retire(ONE)
    await asyncio.sleep(0.1)
    assert routing.flows == 1
    made.retire(ONE)
    await parts.eventually(lambda: routing.flows == 0)
    made.end()
    made.close()


async def test_a_key_stays_as_long_as_its_sockets_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at less and less often; that puts off nobody who ends later."""
    monkeypatch.setattr(retirement, "LATEST_SECONDS", 0.05)
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE, TWO, DATAGRAMS])
    looks = list[float]()
    needed = {ONE}

    def ends(keys: list[bytes]) -> list[Ends]:
        assert DATAGRAMS not in keys
        if ONE in keys:
            looks.append(asyncio.get_running_loop().time())
        return [ALIVE if key in needed else Ends(None, None) for key in keys]

    monkeypatch.setattr(routing, "ends", ends)
    made.retire(ONE)
    await parts.eventually(lambda: len(looks) == 3)
    assert looks[2] - looks[1] >= 2 * retirement.SOONEST_SECONDS
    made.retire(TWO)
    made.retire(DATAGRAMS)
    await parts.eventually(lambda: routing._keys == {ONE})
    needed.clear()
    await parts.eventually(lambda: routing.flows == 0)
    made.end()
    made.close()


async def test_who_ends_while_one_is_seldom_looked_at_does_not_wait_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retirement, "SOONEST_SECONDS", 30.0)
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE, TWO])
    made.retire(ONE)
    monkeypatch.undo()
    made.retire(TWO)
    await parts.eventually(lambda: routing._keys == {ONE})
    made.close()


class BusyLoop:
    """Late for whatever is asked of it; its handles do not say for when they are, as uvloop's then do not."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []

    def time(self) -> float:
        return float(len(self.asked))

    def call_at(self, at: float, work: Callable[[], None]) -> object:
        self.asked.append(work)
        return object()


def test_many_that_end_at_once_are_looked_at_together() -> None:
    loop, routing = BusyLoop(), parts.quiet_routing()
    made = Retirement(loop, routing)  # type: ignore[arg-type]
    made.begin()
    made.use([ONE, TWO])
    made.retire(ONE)
    made.retire(TWO)
    assert len(loop.asked) == 1
    loop.asked[0]()
    assert routing.flows == 1  # of the other the time had not come
    loop.asked[1]()
    assert routing.flows == 0


async def test_the_routing_goes_with_the_last_key_and_the_last_migration() -> None:
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.begin()
    made.use([ONE])
    made.end()
    made.retire(ONE)
    made.end()
    assert routing._up
    await parts.eventually(lambda: not routing._up)
    made.begin()
    assert routing._up
    made.end()
    assert not routing._up
    made.close()


async def test_a_refusal_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    routing = parts.quiet_routing()
    made = Retirement(asyncio.get_running_loop(), routing)
    made.begin()
    made.use([ONE])

    def refuse(*_: object) -> None:
        raise ProxyError(Code.ROUTING_FAILED, "no")

    monkeypatch.setattr(routing, "change", refuse)
    monkeypatch.setattr(routing, "tear_down", refuse)
    with caplog.at_level(logging.WARNING):
        made.retire(ONE)
        await parts.eventually(lambda: caplog.records)
        routing._keys.clear()
        made.end()
    assert len(caplog.records) == 2
    monkeypatch.undo()
    made.close()


@pytest.mark.parametrize("aborted", [0, 3])
async def test_what_another_proxy_has_left_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, aborted: int
) -> None:
    routing = parts.quiet_routing()
    monkeypatch.setattr(routing, "clear_away", lambda: aborted)
    made = Retirement(asyncio.get_running_loop(), routing)
    made.clear_away()
    assert [record.getMessage()[:13] for record in caplog.records] == (["3 connections"] if aborted else [])
    made.close()


async def test_where_that_cannot_be_had_the_proxy_starts_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    routing = parts.quiet_routing()

    def refuse() -> int:
        raise ProxyError(Code.ROUTING_FAILED, "not here")

    monkeypatch.setattr(routing, "clear_away", refuse)
    made = Retirement(asyncio.get_running_loop(), routing)
    made.clear_away()
    assert [record.getMessage() for record in caplog.records] == ["not here"]
    made.close()
