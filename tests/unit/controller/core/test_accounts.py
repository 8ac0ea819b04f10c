"""The ledger's accounts: what is equal, on its way, cut, unequal, missing; and what that costs in bytes."""

import msgspec
import pytest

from controller.core.accounts import Standing, latest, reconcile, settled
from proxy.api import Endpoint, LedgerLine

LINE = LedgerLine(
    flow=1,
    peer=Endpoint("198.18.0.3", 40000),
    local=Endpoint("198.18.0.1", 6379),
    direction="inbound",
    state="relaying",
    unread_bytes=0,
    unsent_bytes=0,
    held_bytes=100,
    to_app_bytes=500,
    to_peer_bytes=900,
)


def line(**changes):
    return msgspec.structs.replace(LINE, **changes)


def account(first, there, last):
    (found,) = reconcile([first], [there] if there else [], [last])
    return found


@pytest.mark.parametrize(
    ("first", "there", "last", "standing"),
    [
        (line(), line(), line(), Standing.EQUAL),
        (line(), line(to_app_bytes=550, to_peer_bytes=950), line(to_app_bytes=600, to_peer_bytes=950), Standing.EQUAL),
        (line(), line(to_app_bytes=499), line(), Standing.ON_ITS_WAY),
        (line(), line(to_peer_bytes=901), line(), Standing.ON_ITS_WAY),
        (line(), line(to_app_bytes=501), line(), Standing.UNEQUAL),
        (line(), line(to_peer_bytes=899), line(), Standing.UNEQUAL),
        (line(), line(to_app_bytes=499, state="closed"), line(state="closed"), Standing.UNEQUAL),
        (line(), line(to_app_bytes=499), line(error="reset by the peer"), Standing.CUT),
        (line(), line(to_app_bytes=499, error="reset by the app"), line(), Standing.CUT),
        (line(), None, line(), Standing.MISSING),
        (line(), None, line(error="reset by the peer"), Standing.CUT),
    ],
)
def test_how_two_lines_stand(first, there, last, standing):
    assert account(first, there, last).standing is standing


def test_what_is_lost_is_counted_both_ways():
    assert account(line(), line(to_app_bytes=499, state="closed"), line(state="closed")).lost_bytes == 1
    assert account(line(), line(to_app_bytes=510, to_peer_bytes=905), line()).lost_bytes == 10 + 5
    assert account(line(), None, line(to_app_bytes=0)).lost_bytes == 100
    assert account(line(), line(), line()).lost_bytes == 0


def test_only_what_we_broke_is_lost():
    assert account(line(), None, line()).lost
    assert not account(line(), line(to_app_bytes=499), line(error="reset by the peer")).lost


def test_settled_when_nothing_is_on_its_way():
    assert not settled([account(line(), line(to_app_bytes=499), line())])
    assert settled([account(line(), line(), line()), account(line(), None, line())])
    assert settled([])


def test_an_account_that_balanced_once_stays_balanced_until_it_is_contradicted():
    equal = account(line(), line(), line())
    later = account(line(to_app_bytes=700), line(to_app_bytes=600), line(to_app_bytes=700))
    wrong = account(line(), line(to_app_bytes=999), line())
    assert later.standing is Standing.ON_ITS_WAY
    assert latest([equal], [later]) == [equal]
    assert latest([equal], [wrong]) == [wrong]
    assert latest([], [later]) == [later]


def test_a_flow_that_began_between_the_readings_waits_for_the_next_one():
    assert reconcile([], [], [line()]) == []
