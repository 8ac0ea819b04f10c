"""The phase table: its two safety rules, and that it is whole."""

import pytest

from controller.core.phases import BEFORE_COMMIT, FINAL, FROZEN, TABLE, WORK, Action, Event, IllegalStep, Phase, step

RESUMES_DESTINATION = {Action.RESUME, Action.RESUME_LEGS, Action.REPOINT}
RESUMES_SOURCE = {Action.RELEASE}


def actions_of(phase: Phase) -> set[Action]:
    return {action for group in WORK[phase] for action in group}


def reachable(start: Phase) -> set[Phase]:
    seen, todo = set(), [start]
    while todo:
        phase = todo.pop()
        if phase not in seen:
            seen.add(phase)
            todo += [following for (before, _), following in TABLE.items() if before is phase]
    return seen


def test_the_way_without_trouble_is_the_designs():
    phase, way = Phase.PENDING, []
    while phase not in FINAL:
        way.append(phase.value)
        phase = step(phase, Event.DONE)
    assert way == [
        "Pending", "Preflight", "Preparing", "Stopping", "Checkpointing", "Adopting", "Transferring", "Restoring",
        "Committing", "Repointing", "Draining",
    ]  # fmt: skip
    assert phase is Phase.SUCCEEDED


@pytest.mark.parametrize("phase", sorted(BEFORE_COMMIT))
@pytest.mark.parametrize(
    "event", [event for event in Event if event not in (Event.DONE, Event.ROUNDS, Event.FALL_BACK)]
)
def test_whatever_goes_wrong_before_the_commit_rolls_back(phase, event):
    assert step(phase, event) is Phase.ROLLING_BACK


def test_memory_may_be_copied_before_the_stop():
    assert step(Phase.PREPARING, Event.ROUNDS) is Phase.PRE_COPYING
    assert step(Phase.PRE_COPYING, Event.DONE) is Phase.STOPPING
    assert Phase.PRE_COPYING not in FROZEN


def test_and_where_that_was_in_vain_all_is_prepared_anew():
    assert step(Phase.PRE_COPYING, Event.FALL_BACK) is Phase.PREPARING
    assert [phase for phase in Phase if (phase, Event.FALL_BACK) in TABLE] == [Phase.PRE_COPYING]


def test_after_the_commit_nothing_leads_back():
    assert Phase.ROLLING_BACK not in reachable(Phase.REPOINTING)


def test_after_a_rollback_has_begun_nothing_leads_forward():
    assert reachable(Phase.ROLLING_BACK) == {Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED}


@pytest.mark.parametrize("event", [Event.IN_DOUBT, Event.INTERRUPTED])
def test_an_unknown_commit_is_asked_again(event):
    assert step(Phase.COMMITTING, event) is Phase.COMMITTING


def test_a_refused_commit_rolls_back():
    assert step(Phase.COMMITTING, Event.ERROR) is Phase.ROLLING_BACK


def test_a_source_that_is_lost_before_it_has_committed_leaves_no_copy():
    assert step(Phase.COMMITTING, Event.LOST) is Phase.ROLLING_BACK
    assert step(Phase.ROLLING_BACK, Event.LOST) is Phase.FAILED


def test_the_commit_cannot_be_cancelled():
    with pytest.raises(IllegalStep):
        step(Phase.COMMITTING, Event.CANCELLED)


def test_only_phases_behind_the_commit_resume_the_destination():
    assert {phase for phase in Phase if actions_of(phase) & RESUMES_DESTINATION} == {Phase.REPOINTING}
    assert not RESUMES_DESTINATION & actions_of(Phase.COMMITTING)


def test_no_phase_resumes_both():
    assert not [p for p in Phase if actions_of(p) & RESUMES_DESTINATION and actions_of(p) & RESUMES_SOURCE]


@pytest.mark.parametrize("phase", sorted(FINAL))
@pytest.mark.parametrize("event", list(Event))
def test_a_final_phase_stays(phase, event):
    with pytest.raises(IllegalStep, match=phase.value):
        step(phase, event)


def test_every_phase_has_its_row_of_work_and_every_action_its_phase():
    assert set(WORK) == set(Phase)
    assert {action for phase in Phase for action in actions_of(phase)} == set(Action)


def test_every_phase_that_is_not_final_has_an_end():
    assert all(reachable(phase) & FINAL for phase in Phase)


def test_the_frozen_phases_are_those_from_the_stop_to_the_repointing():
    assert {Phase.STOPPING, Phase.COMMITTING, Phase.REPOINTING} <= FROZEN
    assert not {Phase.PREPARING, Phase.DRAINING, Phase.ROLLING_BACK} & FROZEN
