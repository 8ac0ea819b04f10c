"""A process's files, looked at: this one's own."""

from __future__ import annotations

import ctypes
import mmap
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from checkpoint.baggage.outgoing import Outgoing
from checkpoint.core.errors import AgentError, Code
from checkpoint.inspection import belongings
from checkpoint.processes import procfs

LIBC = ctypes.CDLL(None)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def look(outgoing: Outgoing):
    return belongings.look([os.getpid()], outgoing, own_root=False)[:2]


def test_deleted_files_that_are_open_are_found_once_and_those_with_another_name_are_problems(tmp_path):
    nothing = Outgoing(tmp_path / "x", None, [], [])
    with (tmp_path / "gone").open("wb") as gone, (tmp_path / "linked").open("wb") as linked:
        gone.write(b"12345")
        gone.flush()
        twice = os.dup(gone.fileno())
        (tmp_path / "other").hardlink_to(tmp_path / "linked")
        for name in ("gone", "linked"):
            (tmp_path / name).unlink()
        try:
            found, problems = look(nothing)
        finally:
            os.close(twice)
    (one,) = (one for one in found.deleted if one.path == str(tmp_path / "gone"))
    assert 5 <= one.size_bytes <= 1 << 16  # in blocks
    assert not [one for one in problems if one.message.endswith(str(tmp_path / "linked"))]  # it can have a name
    assert not linked.closed or found.grounds == []


def test_deleted_files_that_are_mapped_alone_are_found_too(tmp_path):
    """What is a hole is not counted: CRIU does not carry it."""
    with (tmp_path / "gone").open("w+b") as gone, (tmp_path / "linked").open("w+b") as linked:
        (tmp_path / "other").hardlink_to(tmp_path / "linked")
        gone.write(b"12345")
        areas = [area_of(file) for file in (gone, linked)]
    for name in ("gone", "linked"):
        (tmp_path / name).unlink()
    (tmp_path / "linked (deleted)").mkdir()
    try:
        found, problems = look(Outgoing(tmp_path / "x", None, [], []))
    finally:
        for area in areas:
            LIBC.munmap(area, 4096)
    (one,) = (one for one in found.deleted if one.path == str(tmp_path / "gone"))
    assert 5 <= one.size_bytes <= 1 << 20
    assert [one.code for one in problems if one.message.endswith(str(tmp_path / "linked"))] == [Code.DELETED_FILE]


def area_of(file):
    """One of a gigabyte's file, without a descriptor: Python's own areas keep one."""
    file.truncate(1 << 30)
    area = LIBC.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    assert area != ctypes.c_void_p(-1).value
    return area


def test_a_database_that_knows_its_file_by_the_inode_is_warned_of_where_it_travels(tmp_path):
    data = tmp_path / "data"
    data.mkdir()

    def said(*named):
        *_, warnings = belongings.look([os.getpid()], Outgoing(tmp_path / "x", None, named, []), own_root=False)
        return [one.message.split(" will")[0] for one in warnings]

    with closing(sqlite3.connect(data / "one")) as one, closing(sqlite3.connect(data / "logged")) as logged:
        one.execute("CREATE TABLE t (n)")
        logged.execute("PRAGMA journal_mode=WAL")
        logged.execute("CREATE TABLE t (n)")
        with (data / "one").open("rb"), (data / "plain").open("w"):
            assert said(str(data)) == [f"{data}/one"]
            assert said() == said("/etc") == []
    with (data / "one").open("rb"):
        assert said(str(data)) == []


def test_a_named_folder_is_counted_and_one_that_is_not_there_is_refused(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("four")
    os.mkfifo(data / "fifo")
    found, _ = look(Outgoing(tmp_path / "x", None, [str(data)], []))
    (ground,) = found.grounds
    assert (ground.path, ground.files, ground.size_bytes, ground.deleted) == (str(data), 2, 4, 0)
    with pytest.raises(AgentError) as caught:
        Outgoing(tmp_path / "x", None, [str(tmp_path / "missing")], [])
    assert caught.value.code is Code.NO_FOLDER


def test_files_on_other_file_systems_are_named_with_what_is_mounted_there(tmp_path):
    shm = "/dev/shm/midstream-test-belongings"
    with open(shm, "wb"):
        found, _ = look(Outgoing(tmp_path / "x", None, [], []))
    Path(shm).unlink()
    (mount,) = (one for one in found.mounts if one.file == shm)
    assert mount.point == "/dev/shm"
    assert belongings.mounted()["/dev/shm"] == mount.what
    assert belongings.free_bytes() > 0
    assert procfs.mounts(1 << 22) == {}
