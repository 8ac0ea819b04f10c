"""The state file: the last whole line counts, whatever happened after it."""

from __future__ import annotations

import pytest

from checkpoint import statefile
from checkpoint.core.journal import Identity, Journal, WorkloadRecord
from checkpoint.statefile import StateFile


def journal(name: str) -> Journal:
    return Journal([WorkloadRecord(name, Identity(1, 2), ["x"])])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent" / "state.json"


@pytest.fixture
def file(path):
    made = StateFile(path)
    yield made
    made.close()


def test_the_last_state_counts(file, path):
    assert file.load() == Journal()
    for name in "abc":
        file.save(journal(name))
    assert file.load() == journal("c")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("torn", [b"\n{", b'\n{"workloads": [', b"\n[]\n", b"\n\0\0\n"])
def test_a_line_cut_short_is_passed_over_and_written_after(file, path, torn):
    file.save(journal("a"))
    with path.open("ab") as end:
        end.write(torn)
    assert file.load() == journal("a")
    file.save(journal("b"))
    assert file.load() == journal("b")


def test_a_long_file_is_tidied(file, path, monkeypatch):
    file.save(journal("a"))
    size = path.stat().st_size
    file.tidy(journal("a"))
    assert path.stat().st_size == size
    monkeypatch.setattr(statefile, "_TIDY_BYTES", 0)
    for _ in range(9):
        file.save(journal("a"))
    file.tidy(journal("a"))
    assert path.stat().st_size < size
    file.save(journal("b"))
    assert file.load() == journal("b")
