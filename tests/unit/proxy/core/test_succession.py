"""The links of a flow, one after the other: nothing lost, repeated or overtaken, whatever comes first."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.succession import Do, Succession


def test_without_a_successor_the_links_end_is_the_streams():
    one = Succession()
    assert one.link_ended() == [Do.END]
    assert one.ended
    assert one.in_use == 0


def test_an_end_that_comes_before_the_answer_waits_for_it():
    accepted, refused = Succession(), Succession()
    for one in (accepted, refused):
        one.expect()
        assert one.link_ended() == []
    assert accepted.succeed() == [Do.STOP_GIVING, Do.TAKE]
    assert refused.deny() == [Do.END]


def test_a_refusal_before_the_end_changes_nothing():
    one = Succession()
    one.expect()
    assert one.deny() == []
    assert one.link_ended() == [Do.END]


def test_the_old_link_is_needed_until_it_is_given_and_taken_to_its_end():
    one = Succession()
    assert one.succeed() == [Do.STOP_GIVING]
    assert one.flushed() == [Do.GIVE]
    assert one.in_use == 0
    assert one.link_ended() == [Do.TAKE]
    assert one.in_use == 1


def test_two_successors_are_gone_through_in_their_order():
    one = Succession()
    assert one.succeed() == [Do.STOP_GIVING]
    assert one.succeed() == []
    assert one.flushed() == [Do.GIVE, Do.STOP_GIVING]
    assert one.flushed() == [Do.GIVE]
    assert [one.link_ended(), one.link_ended()] == [[Do.TAKE], [Do.TAKE]]
    assert one.link_ended() == [Do.END]


def test_after_the_real_end_a_successor_is_only_given_to():
    one = Succession()
    one.link_ended()
    assert one.succeed() == [Do.STOP_GIVING]
    assert one.flushed() == [Do.GIVE]
    assert one.in_use == 1


class Side:
    """One end of a flow: what its leg brings, what it has delivered, and the ends of the links."""

    def __init__(self, payload: list[int]) -> None:
        self.order = Succession()
        self.leg = deque(payload)
        self.kept: deque[int] = deque()
        self.delivered: list[int] = []
        self.stopped = self.leg_ended = self.over = False
        self.out: list[deque[int | None]] = []
        self.into: list[deque[int | None]] = []

    def do(self, orders: list[Do]) -> None:
        for order in orders:
            if order is Do.STOP_GIVING:
                self.stopped = True
            elif order is Do.GIVE:
                self.out[self.order.giving - 1].append(None)
                self.stopped = self.order.giving < self.order.newest
                if self.leg_ended:
                    self.out[self.order.giving].append(None)
            elif order is Do.END:
                assert not self.over
                self.over = True

    def read_leg(self) -> None:
        if self.stopped or self.leg_ended:
            return
        if self.leg:
            self.kept.append(self.leg.popleft())
        elif not self.kept:
            self.leg_ended = True
            self.out[self.order.giving].append(None)

    def give(self) -> None:
        if self.kept:
            self.out[self.order.giving].append(self.kept.popleft())
        elif self.stopped:
            self.do(self.order.flushed())

    def take(self) -> None:
        queue = self.into[self.order.taking]
        if self.over or self.order.parked or not queue:
            return
        if (item := queue.popleft()) is None:
            self.do(self.order.link_ended())
        else:
            self.delivered.append(item)


class Switch:
    """a asks for a further link; b hears of it and changes over; a hears the answer and changes over."""

    def __init__(self, a: Side, b: Side, refused: bool) -> None:
        self.a, self.b, self.refused, self.stage = a, b, refused, 0

    def go_on(self) -> None:
        self.stage += 1
        if self.stage == 1:
            self.a.order.expect()
        elif self.stage == 2 and not self.refused:
            connect(self.a, self.b)
            self.b.do(self.b.order.succeed())
        elif self.stage == 3:
            self.a.do(self.a.order.deny() if self.refused else self.a.order.succeed())


def connect(a: Side, b: Side) -> None:
    there: deque[int | None] = deque()
    back: deque[int | None] = deque()
    a.out.append(there)
    b.into.append(there)
    b.out.append(back)
    a.into.append(back)


@given(st.integers(0, 12), st.integers(0, 12), st.lists(st.booleans(), max_size=4), st.lists(st.integers(0, 6)))
def test_both_streams_arrive_whole_and_in_order_in_every_interleaving(up, down, refusals, steps):
    """The proxies between are left out: they pass on bytes and ends as they come, which a queue does too."""
    a, b = Side(list(range(up))), Side(list(range(100, 100 + down)))
    connect(a, b)
    switches = [Switch(a, b, refused) for refused in refusals]
    moves = [a.read_leg, a.give, a.take, b.read_leg, b.give, b.take]

    def switch() -> None:
        for one in switches:
            if one.stage < 3:
                one.go_on()
                return

    for step in steps:
        [*moves, switch][step]()
    for _ in range(200):
        for move in (*moves, switch):
            move()
    assert (b.delivered, a.delivered) == (list(range(up)), list(range(100, 100 + down)))
    assert a.over
    assert b.over
    assert a.order.in_use == a.order.newest or a.over
