"""The custody table: what it allows, what it refuses, and the lease."""

from __future__ import annotations

import pytest

from checkpoint.core.custody import FINAL, HOLDING, TABLE, Event, Machine, State
from checkpoint.core.errors import AgentError, Code

WAY_OUT = [Event.STOP, Event.DUMP, Event.ADOPT, Event.SEAL, Event.COMMIT, Event.KILLED]
WAY_IN = [Event.RESTORE, Event.VERIFY, Event.RESUME]


def source(*events: Event, hold: float = 5.0) -> Machine:
    machine = Machine(State.PREPARED, max_hold_seconds=hold)
    for event in events:
        machine.apply(event, 0.0)
    return machine


def test_the_way_out_and_the_way_in():
    assert source(*WAY_OUT).state is State.COMMITTED
    machine = Machine(State.WAITING)
    for event in WAY_IN:
        machine.apply(event, 0.0)
    assert machine.state is State.RESUMED


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_an_illegal_pair_raises_and_changes_nothing(state, event):
    machine = Machine(state, max_hold_seconds=9.0)
    if (state, event) in TABLE:
        machine.apply(event, 0.0)
        assert machine.state is TABLE[state, event]
        return
    with pytest.raises(AgentError) as caught:
        machine.apply(event, 0.0, reason="why")
    assert caught.value.code is Code.WRONG_STATE
    assert (machine.state, machine.reason, machine.deadline()) == (state, "", None)


def test_nothing_leads_out_of_a_final_state():
    assert not [pair for pair in TABLE if pair[0] in FINAL]


def test_no_way_leads_from_the_commit_back_to_a_running_source():
    assert {TABLE[pair] for pair in TABLE if pair[0] is State.COMMITTING} == {State.COMMITTED, State.GIVING}
    assert {TABLE[pair] for pair in TABLE if pair[0] is State.GIVING} == {State.COMMITTED}


def test_with_post_copy_the_source_gives_after_the_commit_and_the_destination_runs_before_it_is_whole():
    machine = source(*WAY_OUT[:-1], Event.YIELD)
    assert (machine.state, machine.done(Event.COMMIT), machine.deadline()) == (State.GIVING, True, None)
    machine.apply(Event.KILLED, 1.0)
    assert (machine.state, machine.done(Event.YIELD)) == (State.COMMITTED, True)
    machine = Machine(State.TAKING)
    assert machine.done(Event.RUN)
    machine.apply(Event.FILLED, 1.0)
    assert (machine.state, machine.done(Event.RUN)) == (State.RESUMED, True)


def test_a_destination_whose_memory_is_lost_is_never_resumed_again():
    machine = Machine(State.TAKING)
    machine.apply(Event.LOSE, 1.0, reason="the source was lost")
    assert machine.reason == "the source was lost"
    assert not machine.done(Event.RUN)
    with pytest.raises(AgentError):
        machine.check(Event.RUN, 2.0)


@pytest.mark.parametrize("count", range(5))
def test_every_state_before_the_commit_can_be_released(count):
    machine = source(*WAY_OUT[:count])
    machine.apply(Event.RELEASE, 1.0, reason="why")
    assert (machine.state, machine.reason) == (State.RELEASED, "why")


def test_the_lease_runs_from_the_stop_to_the_commit():
    machine = source(hold=5.0)
    assert machine.deadline() is None
    machine.apply(Event.STOP, 100.0)
    assert machine.deadline() == 105.0
    assert not machine.overdue(104.9)
    assert machine.overdue(105.0)
    for event in WAY_OUT[1:5]:
        assert machine.state in HOLDING
        machine.apply(event, 101.0)
    assert machine.deadline() is None


def test_an_overdue_commit_is_refused_even_before_anybody_noticed():
    machine = source(*WAY_OUT[:4])
    with pytest.raises(AgentError) as caught:
        machine.check(Event.COMMIT, 5.0)
    assert caught.value.code is Code.LEASE_EXPIRED
    assert machine.state is State.SEALED


def test_after_the_lease_the_commit_is_refused_for_the_leases_sake():
    machine = source(Event.STOP)
    machine.apply(Event.RELEASE, 5.0, expired=True)
    with pytest.raises(AgentError) as caught:
        machine.check(Event.COMMIT, 6.0)
    assert caught.value.code is Code.LEASE_EXPIRED


def test_what_lies_behind_is_done():
    machine = source(*WAY_OUT[:3])
    assert [machine.done(event) for event in WAY_OUT] == [True, True, True, False, False, False]
    assert not machine.done(Event.RELEASE)
    machine.apply(Event.RELEASE, 0.0)
    assert machine.done(Event.RELEASE)
    assert not machine.done(Event.STOP)


def test_what_lies_behind_is_done_at_the_destination_too():
    machine = Machine(State.RESTORED)
    assert [machine.done(event) for event in (*WAY_IN, Event.DISCARD)] == [True, True, False, False]
    machine.apply(Event.DISCARD, 0.0)
    assert machine.done(Event.DISCARD)
