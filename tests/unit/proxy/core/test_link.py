from __future__ import annotations

from itertools import product

import pytest

from proxy.core.link import TABLE, Event, IllegalEvent, State, step


def test_a_link_that_breaks_is_made_again_and_ends() -> None:
    state = State.WAITING
    for event in (Event.CONNECTED, Event.BROKE, Event.CONNECTED, Event.FINISHED, Event.CLOSED):
        state = step(state, event)
    assert state is State.OVER


def test_the_last_acknowledgement_may_have_to_be_said_again() -> None:
    assert step(step(State.CLOSING, Event.BROKE), Event.CONNECTED) is State.CARRYING
    assert step(State.CLOSING, Event.CONNECTED) is State.CARRYING


def test_a_link_may_leave_its_connection_to_another() -> None:
    assert step(State.CARRYING, Event.FREED) is State.OVER  # the acceptor, who says so
    assert step(step(State.CARRYING, Event.FINISHED), Event.FREED) is State.OVER


@pytest.mark.parametrize(("state", "event"), sorted(set(product(State, Event)) - set(TABLE), key=str))
def test_nothing_else_is_legal(state: State, event: Event) -> None:
    with pytest.raises(IllegalEvent, match=f"{event.name} in state {state.name}"):
        step(state, event)


@pytest.mark.parametrize("state", sorted(set(State) - {State.OVER}, key=str))
def test_any_link_may_be_lost(state: State) -> None:
    assert step(state, Event.LOST) is State.OVER
