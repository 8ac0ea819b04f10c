"""This process's own locks, looked at."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

import pytest

from checkpoint.inspection import locks
from checkpoint.processes import procfd, procfs

OFD_SETLK = 37
TAKE = {
    "flock": lambda file, shared: fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX),
    "fcntl": lambda file, shared: fcntl.lockf(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX),
    "F_OFD_SETLK": lambda file, shared: fcntl.fcntl(
        file, OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK if shared else fcntl.F_WRLCK, 0, 0, 0, 0)
    ),
}


def exclusive(folder):
    files = list(procfd.open_files(os.getpid()))
    return [one for one in locks.exclusive([*files, *files]) if one.file.startswith(str(folder))]


def lost(folder):
    return [one for one in locks.lost(procfd.open_files(os.getpid())) if str(folder) in one.message]


@pytest.mark.parametrize("kind", TAKE)
def test_an_exclusive_lock_is_found_once_with_its_file_system_while_the_file_has_a_name(tmp_path, kind):
    with (tmp_path / "f").open("w+") as file:
        TAKE[kind](file, True)
        assert exclusive(tmp_path) == []
        TAKE[kind](file, False)
        (found,) = exclusive(tmp_path)
        assert (found.file, found.kind) == (str(tmp_path / "f"), kind)
        assert (found.point, found.what) in {(one.point, one.what) for one in procfs.mounts("self").values()}
        (tmp_path / "f").unlink()
        assert exclusive(tmp_path) == []


@pytest.mark.parametrize("kind", TAKE)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("deleted", [True, False])
def test_a_lock_on_a_mapped_file_is_lost_where_the_copy_cannot_take_it_and_no_other(
    tmp_path, monkeypatch, kind, shared, deleted
):
    with (tmp_path / "f").open("w+") as file:
        file.truncate(1)
        TAKE[kind](file, shared)
        if deleted:
            (tmp_path / "f").unlink()
        assert lost(tmp_path) == []
        with mmap.mmap(file.fileno(), 1):
            assert lost(tmp_path) == []
            monkeypatch.setattr(locks.held, "can_be_kept", lambda pid: False)
            assert bool(lost(tmp_path)) == (kind == "fcntl")


@pytest.mark.parametrize("kind", [fcntl.F_RDLCK, fcntl.F_WRLCK])
def test_a_lease_is_lost_if_it_is_one_for_writing(tmp_path, kind):
    (tmp_path / "f").touch()
    with (tmp_path / "f").open() as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, kind)
        assert len(lost(tmp_path)) == (kind == fcntl.F_WRLCK)
        assert exclusive(tmp_path) == []
