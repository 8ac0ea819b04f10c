from __future__ import annotations

from itertools import product

import pytest

from proxy.core.flow import ENDED, TABLE, Command, Event, IllegalEvent, State, step


def run(state: State, *events: Event) -> tuple[State, list[Command]]:
    done: list[Command] = []
    for event in events:
        state, commands = step(state, event)
        done += commands
    return state, done


def test_a_held_flow_is_repointed() -> None:
    state, done = run(State.HELD, Event.REPOINT, Event.LINK_READY)
    assert state is State.RELAYING
    assert done == [Command.UNHOLD, Command.SKIP_UNREAD, Command.SEEK_LINK, Command.RELAY]


def test_a_held_flow_is_released_without_a_packet() -> None:
    assert run(State.HELD, Event.RELEASE) == (State.RELEASED, [Command.UNHOLD, Command.CLOSE_LEG, Command.ABANDON_LINK])


@pytest.mark.parametrize(("state", "first"), [(State.HELD, Command.UNHOLD), (State.BUILT, Command.LEAVE_REPAIR)])
def test_what_cannot_be_kept_is_reset(state: State, first: Command) -> None:
    after, done = run(state, Event.GIVE_UP)
    assert (after, done[:2]) == (State.RESET, [first, Command.RESET_LEG])


@pytest.mark.parametrize("order", [(Event.RESUME, Event.LINK_READY), (Event.LINK_READY, Event.RESUME)])
def test_the_link_may_come_before_or_after_the_resume(order: tuple[Event, Event]) -> None:
    assert run(State.BUILT, *order) == (State.RELAYING, [Command.LEAVE_REPAIR, Command.RELAY])


@pytest.mark.parametrize("state", [State.BUILT, State.WAITING])
def test_a_leg_in_repair_is_closed_silently(state: State) -> None:
    after, done = run(state, Event.RELEASE)
    assert after is State.RELEASED
    assert Command.CLOSE_LEG in done
    assert Command.RESET_LEG not in done
    assert Command.RETIRE_ROUTE in done


@pytest.mark.parametrize(
    ("first", "second", "half", "fins"),
    [
        (Event.LEG_EOF, Event.LINK_EOF, State.LEG_ENDED, [Command.FIN_LINK, Command.FIN_LEG]),
        (Event.LINK_EOF, Event.LEG_EOF, State.LINK_ENDED, [Command.FIN_LEG, Command.FIN_LINK]),
    ],
)
def test_either_stream_may_end_first(first: Event, second: Event, half: State, fins: list[Command]) -> None:
    assert run(State.RELAYING, first)[0] is half
    state, done = run(State.RELAYING, first, second)
    assert state is State.DRAINING
    assert [command for command in done if command in fins] == fins
    assert done[-2:] == [Command.CLOSE_LINK, Command.DRAIN_LEG]
    assert run(state, Event.LEG_DRAINED) == (State.CLOSED, [Command.CLOSE_LEG, Command.RETIRE_ROUTE])


@pytest.mark.parametrize("state", [State.RELAYING, State.LEG_ENDED, State.LINK_ENDED])
def test_a_failure_on_one_side_resets_the_other(state: State) -> None:
    assert run(state, Event.LEG_FAILED)[1] == [Command.RESET_LINK, Command.CLOSE_LEG, Command.RETIRE_ROUTE]
    for event in (Event.LINK_FAILED, Event.LINK_REFUSED):
        assert run(state, event)[1] == [Command.RESET_LEG, Command.CLOSE_LINK, Command.RETIRE_ROUTE]


@pytest.mark.parametrize("state", State)
def test_release_ends_every_state_and_may_be_said_twice(state: State) -> None:
    after, _ = step(state, Event.RELEASE)
    assert after in ENDED
    assert step(after, Event.RELEASE) == (after, ())


@pytest.mark.parametrize(("state", "event"), sorted(set(product(State, Event)) - set(TABLE), key=str))
def test_what_the_table_has_not_is_illegal(state: State, event: Event) -> None:
    with pytest.raises(IllegalEvent) as raised:
        step(state, event)
    assert (raised.value.state, raised.value.event) == (state, event)
    assert event.name in str(raised.value)
    assert state.name in str(raised.value)
