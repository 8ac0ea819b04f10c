from __future__ import annotations

from pathlib import Path

import pytest

from controller.commands import moves
from controller.commands.moves import MigrateRequest, exit_status, new_intent, sample_of
from controller.commands.status import migrations_folder
from controller.core.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_ROLLED_BACK, Refused
from controller.core.phases import Phase
from controller.core.predict import Sample, Size
from controller.core.result import ByteCounts, FlowCounts, LedgerRow, MemoryAccount, MigrationResult, PhaseTime
from controller.core.transfer import Transfer
from controller.journal import Journal, read

SIZE = Size(5 << 20, 71, 1, 5)
REQUEST = MigrateRequest("redis", None, "b", 10.0, 1 << 20)


def result(outcome: str, *phases: Phase, **more: object) -> MigrationResult:
    names = [PhaseTime(phase.value, 0.1) for phase in phases]
    return MigrationResult(migration="redis-1", outcome=outcome, phases=names, **more)  # type: ignore[arg-type]


def test_the_exit_status_tells_what_a_script_has_to_know() -> None:
    row = LedgerRow("198.51.100.1:5", "inbound", 0, 0, 0, 0, False, given_up="kTLS")
    assert exit_status(result("succeeded")) == 0
    assert exit_status(result("succeeded", flows=FlowCounts(lost=1), ledger=[row])) == 0
    assert exit_status(result("succeeded", flows=FlowCounts(lost=1))) == EXIT_FAILED
    assert exit_status(result("succeeded", bytes=ByteCounts(lost=1))) == EXIT_FAILED
    assert exit_status(result("failed", Phase.PREPARING)) == EXIT_FAILED
    assert exit_status(result("rolled-back", Phase.PREFLIGHT)) == EXIT_REFUSED
    assert exit_status(result("rolled-back", Phase.PREFLIGHT, Phase.PREPARING)) == EXIT_ROLLED_BACK


def test_each_migration_has_an_id_of_its_own_that_names_its_workload() -> None:
    one, other = (new_intent(REQUEST, "a") for _ in range(2))
    assert one.migration != other.migration
    assert one.migration.startswith("redis-")
    assert (one.source, one.destination, one.max_hold_seconds) == ("a", "b", 10.0)


def test_what_did_not_get_so_far_teaches_nothing() -> None:
    assert sample_of(result("succeeded"), SIZE, Transfer()) is None


def test_what_waited_for_a_limit_or_an_archive_teaches_nothing_of_the_machine() -> None:
    seen = MemoryAccount("stop-and-copy", 5 << 20, 0.1, 0.4, 0.4)
    found = result("succeeded", freeze_seconds=0.1, memory=seen)
    assert sample_of(found, SIZE, Transfer("direct")) == Sample("stop-and-copy", SIZE, 0.1, 0.4)
    assert sample_of(found, SIZE, Transfer("direct", bytes_per_second=1e6)) is None
    assert sample_of(found, SIZE, Transfer("store")) is None


async def test_a_migration_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    unknown = "there is no migration 'redis-1'"
    with pytest.raises(Refused, match=unknown):
        await moves.resume(tmp_path, "redis-1", as_json=True)
    with pytest.raises(Refused, match=unknown):
        await moves.rollback(tmp_path, "redis-1")


async def test_what_is_over_is_not_taken_back(tmp_path: Path) -> None:
    log = Journal.begin(migrations_folder(tmp_path), new_intent(REQUEST, "a"))
    log.write(Phase.SUCCEEDED, result=result("succeeded"))
    log.close()
    (path,) = migrations_folder(tmp_path).iterdir()
    with pytest.raises(Refused, match="is over"):
        await moves.rollback(tmp_path, path.stem)
    assert read(path).phase is Phase.SUCCEEDED
