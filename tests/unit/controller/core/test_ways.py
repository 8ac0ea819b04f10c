"""Old ways: counted flow by flow, of the workload that is to move and of no other."""

import pytest

from controller.core.ways import FEW, MOST, Pile, pile
from proxy.api import Endpoint, FlowView


def view(flow, side, migration="redis-2", links=1):
    return FlowView(
        migration=migration,
        flow=flow,
        side=side,
        peer=Endpoint("198.18.0.3", 40000 + flow),
        local=Endpoint("198.18.0.1", 6379),
        via="198.18.0.2:15008",
        direction="inbound",
        state="relaying",
        held_bytes=0,
        to_app_bytes=0,
        to_peer_bytes=0,
        links=links,
    )


def seen(flow, old, migration="redis-2"):
    """What all proxies say of a flow with so many old ways."""
    here = [view(flow, "destination", migration), view(flow, "source", "redis-1")]
    return here + [view(flow, side, f"old-{n}") for n in range(old) for side in ("source", "destination")]


def test_a_workload_that_has_never_moved_has_no_old_ways():
    assert pile([], "redis-1") == Pile()
    assert pile([], "redis-1").is_small


def test_the_last_moves_own_ways_are_nothing_to_wait_for():
    found = pile([*seen(1, FEW), *seen(2, 0)], "redis-2")
    assert found == Pile(0, FEW)
    assert found.is_small


@pytest.mark.parametrize(("old", "too_large"), [(FEW + 1, False), (MOST - 1, False), (MOST, True)])
def test_more_are_waited_for_and_many_are_too_many(old, too_large):
    found = pile([*seen(1, old), *seen(2, FEW + 1), *seen(3, 0)], "redis-2")
    assert found == Pile(2, old)
    assert not found.is_small
    assert found.is_too_large is too_large


def test_ways_that_are_over_for_their_proxies_and_not_read_to_their_end_count():
    views = [view(1, "destination"), view(1, "source", links=4), view(1, "source", "old-1")]
    assert pile(views, "redis-2") == Pile(1, 3)


def test_other_workloads_do_not_count():
    assert pile(seen(1, MOST, "nginx-1"), "redis-2") == Pile()


@pytest.mark.parametrize(("flows", "words"), [(1, "1 flow is read"), (2, "2 flows are read")])
def test_it_says_what_is_waited_for(flows, words):
    assert str(Pile(flows, 5)).startswith(words)
    assert "up to 5 ways" in str(Pile(flows, 5))
