from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from checkpoint.api import RECORD
from checkpoint.core import custody
from checkpoint.core.custody import State
from checkpoint.core.journal import Journal, MigrationRecord
from checkpoint.statefile import StateFile
from controller import remains
from controller.lab.pod import Pod
from controller.remains import gave_up


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod("a", 1, "", "", str(tmp_path), "", "")


def written(pod: Pod, *states: State, side: Literal["source", "destination"] = "source") -> Path:
    path = Path(pod.directory) / RECORD
    file = StateFile(path)
    for state in states:
        file.save(Journal([], [MigrationRecord("m", "w", side, state)]))
    file.close()
    return path


def test_the_states_are_the_agents_own():
    assert set(remains.GIVEN_UP) == {state.value for state in custody.GIVEN_UP}


def test_the_last_whole_line_counts(pod):
    assert not gave_up(pod, "m")
    path = written(pod, State.SEALED)
    assert not gave_up(pod, "m")
    written(pod, State.COMMITTING)
    assert gave_up(pod, "m")
    assert not gave_up(pod, "another")
    path.write_bytes(path.read_bytes() + b'\n{"workloads":[],"migra')
    assert gave_up(pod, "m")
    written(pod, State.RELEASED)
    assert not gave_up(pod, "m")


def test_what_a_destination_has_on_record_is_another_story(pod):
    written(pod, State.COMMITTED, side="destination")
    assert not gave_up(pod, "m")
