"""The state file: the last whole line counts, whatever happened after it."""

from __future__ import annotations

import errno
import os
import subprocess

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
def full(path):
    """Its disk, from the call on."""
    path.parent.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(path.parent)], check=True)
    filler = path.with_name("filler")

    def fill() -> None:
        found = os.statvfs(path.parent)
        filler.write_bytes(bytes(found.f_bavail * found.f_frsize))

    yield fill
    subprocess.run(["umount", str(path.parent)], check=True)


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


def test_what_does_not_fit_is_not_written_in_part(full, path):
    file = StateFile(path)
    try:
        file.save(journal("a"))
        full()
        size = path.stat().st_size
        with pytest.raises(OSError, match="No space") as error:  # there is room for some of it: a page's end
            file.save(journal("b" * 4096))
        assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
        assert path.stat().st_size == size
        file.save(journal("c"))
        assert file.load() == journal("c")
    finally:
        file.close()


def test_a_file_that_cannot_be_tidied_stays(full, path, monkeypatch):
    monkeypatch.setattr(statefile, "_TIDY_BYTES", 0)
    file = StateFile(path)
    try:
        file.save(journal("a"))
        full()
        with pytest.raises(OSError, match="No space"):
            file.tidy(journal("a"))
        assert sorted(one.name for one in path.parent.iterdir()) == ["filler", "state.json"]
        assert file.load() == journal("a")
    finally:
        file.close()
