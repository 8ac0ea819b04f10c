"""The journal: written ahead, locked while driven, read back whole, and taken over only from the dead."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from controller import journal
from controller.core.errors import Refused
from controller.core.phases import Phase
from controller.core.result import MigrationResult
from controller.journal import Intent, Journal

INTENT = Intent("redis-1", "redis", "a", "b", 10.0, 64 << 20)


@pytest.fixture
def begun(tmp_path):
    log = Journal.begin(tmp_path, INTENT)
    yield log
    log.close()


def test_a_new_migration_is_pending_and_driven(begun, tmp_path):
    ((record,), _) = journal.read_all(tmp_path)
    assert record.intent == INTENT
    assert record.phase is Phase.PENDING
    assert record.driven
    assert not record.interrupted


def test_every_phase_is_there_with_the_last_reason(begun):
    begun.write(Phase.STOPPING)
    begun.write(Phase.ROLLING_BACK, reason="the disk is full")
    begun.write(Phase.ROLLED_BACK, result=MigrationResult(migration="redis-1", outcome="rolled-back"))
    record = journal.read(begun.path)
    assert [entry.phase for entry in record.entries] == [
        Phase.PENDING, Phase.STOPPING, Phase.ROLLING_BACK, Phase.ROLLED_BACK,
    ]  # fmt: skip
    assert record.final
    assert record.entries[-1].result.outcome == "rolled-back"
    assert record.reason == "the disk is full"
    assert record.entries[1].controller == os.getpid()


def test_a_closed_journal_that_is_not_final_is_interrupted(tmp_path):
    Journal.begin(tmp_path, INTENT).close()
    assert journal.read(tmp_path / "redis-1.jsonl").interrupted


def test_only_one_controller_drives(begun, tmp_path):
    with pytest.raises(Refused, match="driven by another controller") as refused:
        Journal.take_over(tmp_path, "redis-1")
    assert refused.value.code == "driven"


def test_a_dead_controllers_migration_is_taken_over(tmp_path):
    Journal.begin(tmp_path, INTENT).close()
    log, record = Journal.take_over(tmp_path, "redis-1")
    log.write(Phase.ROLLING_BACK)
    log.close()
    assert record.phase is Phase.PENDING
    assert journal.read(log.path).phase is Phase.ROLLING_BACK


def test_a_migration_is_begun_once(begun, tmp_path):
    with pytest.raises(FileExistsError):
        Journal.begin(tmp_path, INTENT)


def test_a_line_cut_short_by_a_crash_is_left_out(begun):
    with begun.path.open("ab") as file:
        file.write(b'{"at": 1.0, "pha')
    assert journal.read(begun.path).phase is Phase.PENDING


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """In any file that is written meanwhile (RLIMIT_FSIZE, setrlimit(2)): a write comes short, the next one fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_there_is_no_room_for_is_written_whole_or_not_at_all(begun):
    before = begun.path.read_bytes()
    for more in (10, 0):
        with pytest.raises(OSError, match=r"redis-1\.jsonl"), room_for(len(before) + more):
            begun.write(Phase.STOPPING)
        assert begun.path.read_bytes() == before
    begun.write(Phase.STOPPING)
    assert journal.read(begun.path).phase is Phase.STOPPING


def test_a_migration_that_there_is_no_room_for_is_not_begun(tmp_path):
    with pytest.raises(OSError, match=r"redis-1\.jsonl"), room_for(10):
        Journal.begin(tmp_path, INTENT)
    assert list(tmp_path.iterdir()) == []


def test_one_that_has_just_been_begun_is_not_listed_yet(begun, tmp_path):
    (tmp_path / "redis-2.jsonl").touch()
    (tmp_path / "no-journal").touch()
    assert [record.intent.migration for record in journal.read_all(tmp_path)[0]] == ["redis-1"]


@pytest.mark.parametrize("raw", [b"", b"garbage\n", b'{"at": 1}\n', b"\xff\n"])
def test_a_journal_that_is_none_is_refused_in_words(tmp_path, raw):
    path = tmp_path / "x.jsonl"
    path.write_bytes(raw)
    with pytest.raises(Refused, match="is not a migration's journal"):
        journal.read(path)


@pytest.mark.parametrize("name", ["redis-2", "../redis-1", ""])
def test_an_unknown_migration_is_refused_in_words(tmp_path, name):
    with pytest.raises(Refused, match="there is no migration"):
        Journal.take_over(tmp_path, name)


def test_the_journal_is_its_owners_alone(begun, tmp_path):
    assert begun.path.stat().st_mode & 0o077 == 0


def test_no_migrations_in_a_home_that_is_new(tmp_path):
    assert journal.read_all(tmp_path / "none") == ([], [])


def test_of_moves_that_are_over_the_oldest_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "KEPT", 2)
    logs = {}
    for age, name in enumerate(("open", "damaged", "driven", "oldest", "old", "new", "newest")):
        logs[name] = Journal.begin(tmp_path, msgspec.structs.replace(INTENT, migration=name))
        if name != "open":
            logs[name].write(Phase.SUCCEEDED)
        if name != "driven":
            logs[name].close()
        os.utime(logs[name].path, (age, age))
    logs["damaged"].path.write_text("damage\n")
    os.utime(logs["damaged"].path, (1, 1))
    Journal.begin(tmp_path, INTENT).close()
    logs["driven"].close()
    assert {path.stem for path in tmp_path.iterdir()} == {"open", "damaged", "driven", "new", "newest", "redis-1"}
