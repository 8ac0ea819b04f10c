"""The flow's table as a machine driven at random: it always ends, closes each socket once, and passes on every end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.core.flow import ENDED, TABLE, Command, Event, IllegalEvent, State, step

CLOSING_LEG = {Command.CLOSE_LEG, Command.RESET_LEG}
CLOSING_LINK = {Command.CLOSE_LINK, Command.RESET_LINK}
STARTS = [State.HELD, State.LINKING, State.BUILT, State.CONNECTING]


class FlowMachine(RuleBasedStateMachine):
    """Draws an event; the legal ones are obeyed, the illegal ones must change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State | None = None
        self.done: list[Command] = []

    @precondition(lambda self: self.state is None)
    @rule(start=st.sampled_from(STARTS))
    def begin(self, start: State) -> None:
        self.start = self.state = start

    @precondition(lambda self: self.state is not None)
    @rule(event=st.sampled_from(Event))
    def any_event(self, event: Event) -> None:
        assert self.state
        before = self.state
        try:
            self.state, commands = step(before, event)
        except IllegalEvent:
            assert (before, event) not in TABLE
            return
        self.done += commands

    @invariant()
    def nothing_is_closed_twice(self) -> None:
        assert sum(command in CLOSING_LEG for command in self.done) <= 1
        assert sum(command in CLOSING_LINK for command in self.done) <= 1

    @invariant()
    def ended_means_closed_and_forgotten(self) -> None:
        if self.state in ENDED:
            assert sum(command in CLOSING_LEG for command in self.done) == 1
            relayed = Command.RELAY in self.done
            assert not relayed or sum(command in CLOSING_LINK for command in self.done) == 1
            assert self.start is State.HELD or Command.RETIRE_ROUTE in self.done

    @invariant()
    def nothing_is_relayed_twice_or_from_repair(self) -> None:
        assert self.done.count(Command.RELAY) <= 1
        if Command.RELAY in self.done and self.start is State.BUILT:
            assert self.done.index(Command.LEAVE_REPAIR) < self.done.index(Command.RELAY)

    @invariant()
    def a_clean_end_has_told_both_sides(self) -> None:
        if self.state in (State.DRAINING, State.CLOSED):
            assert self.done.count(Command.FIN_LEG) == self.done.count(Command.FIN_LINK) == 1


TestFlowMachine = FlowMachine.TestCase


@given(st.sampled_from(STARTS), st.lists(st.sampled_from(Event), max_size=12))
def test_a_release_always_ends_it(state: State, events: list[Event]) -> None:
    for event in events:
        if (state, event) in TABLE:
            state, _ = step(state, event)
    assert step(state, Event.RELEASE)[0] in ENDED
