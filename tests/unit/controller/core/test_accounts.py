"""The ledger's accounts: what balances, what is cut, what is missing; and what that costs in bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.accounts import Standing, complaint, reconcile
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
    ("first", "there", "last"),
    [
        (line(), line(), line()),
        # Bytes went on flowing between the readings.
        (line(), line(to_app_bytes=550, to_peer_bytes=950), line(to_app_bytes=600, to_peer_bytes=980)),
        # Towards the app: some not acknowledged by the destination's kernel, some waiting there.
        (line(link_unacked_bytes=30), line(to_app_bytes=470), line()),
        (line(link_unacked_bytes=30), line(to_app_bytes=400, link_waiting_bytes=70), line()),
        # Towards the peer: the same the other way round.
        (line(), line(to_peer_bytes=1000, link_unacked_bytes=100), line()),
        (line(), line(to_peer_bytes=1000, link_unacked_bytes=60), line(link_waiting_bytes=40)),
    ],
)
def test_what_balances(first, there, last):
    found = account(first, there, last)
    assert found.standing is Standing.EQUAL
    assert (found.lost, found.lost_bytes) == (False, 0)


def test_what_was_given_up_is_no_loss_of_ours():
    gone = line(given_up="it has kernel TLS", to_app_bytes=0, state="reset")
    for there in (None, line()):
        found = account(gone, there, gone)
        assert found.standing is Standing.GIVEN_UP
        assert (found.lost, found.lost_bytes, found.settled) == (False, 0, True)


@pytest.mark.parametrize(
    ("first", "there", "last", "lost_bytes"),
    [
        (line(), line(to_app_bytes=499), line(), 1),
        (line(), line(to_app_bytes=507), line(), 7),
        (line(), line(to_peer_bytes=897), line(), 3),
        (line(), line(to_peer_bytes=905), line(), 5),
        (line(link_unacked_bytes=30), line(to_app_bytes=469), line(), 1),
        (line(state="closed"), line(to_app_bytes=510, to_peer_bytes=905, state="closed"), line(state="closed"), 15),
    ],
)
def test_what_does_not(first, there, last, lost_bytes):
    found = account(first, there, last)
    assert found.standing is Standing.UNEQUAL
    assert (found.lost, found.lost_bytes) == (True, lost_bytes)


@pytest.mark.parametrize(
    ("there", "last"),
    [
        (line(to_app_bytes=499), line(error="reset by the peer")),
        (line(to_app_bytes=499, error="reset by the app"), line()),
        (None, line(error="reset by the peer")),
    ],
)
def test_what_a_party_cut_is_not_our_loss(there, last):
    found = account(line(), there, last)
    assert found.standing is Standing.CUT
    assert (found.lost, found.lost_bytes, found.settled) == (False, 0, True)


def test_a_flow_that_the_destination_does_not_know_is_lost():
    assert account(line(), None, line(to_app_bytes=0)).lost_bytes == 100
    missing = account(line(), None, line())
    assert (missing.standing, missing.settled) == (Standing.MISSING, False)


@pytest.mark.parametrize(("given", "unacked"), [(0, 0), (14, 14)])
def test_a_connection_that_has_just_come_is_asked_for_again_and_never_lost(given, unacked):
    came = line(direction="accepted", held_bytes=0, to_app_bytes=given, link_unacked_bytes=unacked)
    found = account(came, None, came)
    assert found.standing is Standing.COMING
    assert (found.lost, found.lost_bytes, found.settled) == (False, 0, False)


def test_a_connection_of_which_something_was_acknowledged_had_come():
    came = line(direction="accepted", held_bytes=0, to_app_bytes=14, link_unacked_bytes=0)
    assert account(came, None, came).standing is Standing.MISSING


def test_a_flow_whose_end_only_one_proxy_has_seen_is_asked_for_again():
    found = account(line(state="closed"), line(to_app_bytes=499), line(state="closed"))
    assert found.standing is Standing.ENDING
    assert (found.lost, found.settled) == (False, False)


def test_settled_is_what_was_held_and_delivered():
    assert account(line(), line(to_app_bytes=100, link_waiting_bytes=400), line()).settled
    assert not account(line(), line(to_app_bytes=99, link_waiting_bytes=401), line()).settled


def test_a_flow_that_began_between_the_readings_waits_for_the_next_one():
    assert reconcile([], [], [line()]) == []


@given(st.lists(st.integers(0, 1000), min_size=10, max_size=10), st.integers(-3, 3))
def test_a_true_history_balances_and_a_wrong_byte_anywhere_does_not(steps, wrong):
    """A flow towards the app at three moments: bytes given, acknowledged, arrived and passed on only ever grow."""
    given_1, arrived_1 = 1000 + steps[0] + steps[1], 1000 + steps[0]
    acknowledged_1 = 1000 + min(steps[0], steps[2])
    arrived_2 = max(arrived_1, acknowledged_1) + min(steps[3], given_1 - arrived_1)
    passed_on_2 = arrived_2 - min(steps[4], arrived_2)
    given_3 = given_1 + steps[5]
    found = account(
        line(to_app_bytes=given_1, link_unacked_bytes=given_1 - acknowledged_1),
        line(to_app_bytes=passed_on_2, link_waiting_bytes=arrived_2 - passed_on_2),
        line(to_app_bytes=given_3),
    )
    assert not found.lost
    settled = account(line(), line(to_app_bytes=500 + wrong), line())
    assert settled.lost == (wrong != 0)
    assert settled.lost_bytes == abs(wrong)


def test_who_was_turned_away_at_home_is_lost_and_named():
    gone = line(direction="accepted", turned_away="refused: nobody listens", state="reset", to_app_bytes=7)
    for there in (None, line()):
        found = account(gone, there, gone)
        assert found.standing is Standing.TURNED_AWAY
        assert (found.lost, found.lost_bytes, found.settled) == (True, 7, True)
    assert complaint([found, account(line(), line(), line())]) == (
        "the ledger does not balance: 198.18.0.3:40000 (refused: nobody listens); see the flows in the result"
    )
    assert "198.18.0.3:40000 (missing), " in complaint([account(line(), None, line()), *[found] * 3])
    assert " and 1 more;" in complaint([found] * 4)
    assert complaint([account(line(), line(), line())]) == ""
