"""The controller is killed in every phase; a new one ends what it began: back before the commit, forward behind it."""

from __future__ import annotations

import pytest

from tests.harness.killing import Killed, killed_controller
from tests.harness.moving import ONE_LOOP

pytestmark = ONE_LOOP

KILLED = [
    Killed("Preflight", "b", "agent", "GET", "/v1/room", "a", spare=1),  # the first comes before the journal
    Killed("Preparing", "b", "agent", "PUT", "", "a"),
    Killed("Stopping", "a", "agent", "POST", "/stop", "a"),
    Killed("Checkpointing", "a", "agent", "POST", "/dump", "a"),
    Killed("Adopting", "a", "agent", "POST", "/adopt", "a"),
    Killed("Transferring", "b", "proxy", "POST", "/legs", "a", spare=1),  # the first is said in Adopting
    Killed("Restoring", "b", "agent", "POST", "/restore", "a"),
    Killed("Committing", "a", "agent", "POST", "/commit", "b"),
    Killed("Repointing", "b", "agent", "POST", "/resume", "b"),
    Killed("Draining", "a", "proxy", "GET", "/ledger", "b"),
    Killed("RollingBack", "a", "agent", "POST", "/release", "a"),
]


@pytest.mark.parametrize("killed", KILLED, ids=lambda killed: killed.phase)
async def test_the_controller_is_killed(stage, killed):
    """PreCopying: `test_precopy.py`."""
    await killed_controller(stage, killed)
