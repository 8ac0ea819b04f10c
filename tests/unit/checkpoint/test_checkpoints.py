"""What is refused before anything is touched, and what an agent before this one left behind. The rest needs CRIU and a
pod: tests/system/test_images.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.api import Archive, KeySource, StartClone, StoreCheckpoint
from checkpoint.checkpoints import Checkpoints
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Machine
from checkpoint.images.store import Store
from checkpoint.kernel import Kernel
from checkpoint.processes.workloads import Workloads
from tests.harness.made_images import MESSAGES


@pytest.fixture
def checkpoints(tmp_path):
    store = Store(tmp_path / "images")
    custodian: Any = SimpleNamespace(store=store, workloads=Workloads(Kernel(), tmp_path, 0))
    yield Checkpoints(custodian, MESSAGES, Machine("4.2.1", "6", "x86_64", []), tmp_path)
    store.close()


def test_what_an_agent_was_killed_over_is_taken_away(checkpoints, tmp_path):
    for name in ("a.fetched", "b"):
        (tmp_path / "images" / name).mkdir()
    checkpoints.tidy()
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["b"]


async def test_a_workload_that_is_not_there_is_refused(checkpoints):
    wanted = StoreCheckpoint("none", Archive("/x"), KeySource("/k"), [], 0.0, 1.0, 1.0)
    with pytest.raises(AgentError) as caught:
        await checkpoints.checkpoint("i", wanted)
    assert caught.value.code is Code.NO_WORKLOAD


@pytest.mark.parametrize(("migration", "workload"), [("../x", "copy"), ("m", "../copy")])
async def test_a_name_that_is_none_is_refused(checkpoints, migration, workload):
    with pytest.raises(AgentError) as caught:
        await checkpoints.clone(migration, StartClone("i", workload, Archive("/x"), KeySource("/k"), [], 0.0, 1.0))
    assert caught.value.code is Code.BAD_REQUEST
