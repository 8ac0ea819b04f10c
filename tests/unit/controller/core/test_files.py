"""What a workload's files would miss where it arrives."""

from __future__ import annotations

import msgspec
import pytest

from checkpoint.api import Belongings, DeletedFile, FileLock, Files, Ground, OpenMount, Room
from controller.core.files import locked_wherever_it_goes, what_does_not_arrive

HERE = Belongings(
    own_root=True,
    grounds=[Ground("/", 3, 1000, 1), Ground("/data", 1, 24, 0)],
    deleted=[DeletedFile("/tmp/scratch", 1 << 20)],
    mounts=[OpenMount("/srv", "8:1 /srv", "/srv/log"), OpenMount("/data", "0:77 /", "/data/file")],
)
THERE = Room(1 << 30, 1 << 30, [], [], True, {"/srv": "8:1 /srv"}, 1024)
WANTED = Files(["/data"], ghost_limit_bytes=1 << 20)


def test_what_is_there_or_travels_is_no_problem():
    assert what_does_not_arrive(HERE, THERE, "b", WANTED) == []
    assert what_does_not_arrive(Belongings(), THERE, "b", Files()) == []
    inside = msgspec.structs.replace(HERE, mounts=[OpenMount("/data/deeper", "0:78 /", "/data/deeper/file")])
    assert what_does_not_arrive(inside, THERE, "b", WANTED) == []
    unwritten = Belongings(own_root=True, grounds=[Ground("/", 0, 0, 0)])
    assert what_does_not_arrive(unwritten, msgspec.structs.replace(THERE, own_root=False), "b", WANTED) == []


@pytest.mark.parametrize(
    ("room", "wanted", "code", "words"),
    [
        (
            {},
            {"ghost_limit_bytes": (1 << 20) - 1},
            "ghost-too-large",
            "the deleted file /tmp/scratch, still in use, has 1.0",
        ),
        ({"own_root": False}, {}, "no-own-root", "no root of its own for the 3 files"),
        ({"mounts": {}}, {}, "file-not-there", "/srv/log is open, on a file system at /srv"),
        ({"mounts": {"/srv": "8:2 /srv"}}, {}, "file-not-there", "/srv/log is open"),
        ({}, {"named": []}, "file-not-there", "/data/file is open, on a file system at /data"),
        ({"file_bytes": 1023}, {}, "no-room", "pod b has too little room for files"),
    ],
)
def test_what_would_be_missing_is_named(room, wanted, code, words):
    there, asked = msgspec.structs.replace(THERE, **room), msgspec.structs.replace(WANTED, **wanted)
    (found,) = what_does_not_arrive(HERE, there, "b", asked)
    assert found.code == code
    assert words in found.message
    assert found.hint


ON_ROOT, ON_SRV = FileLock("/var/db", "flock", "/", "0:50 /"), FileLock("/srv/db", "fcntl", "/srv", "8:1 /srv")


@pytest.mark.parametrize(
    ("own_root", "lock", "mounts", "shared", "remedy"),
    [
        (True, ON_ROOT, {"/": "0:51 /"}, False, ""),
        (False, ON_ROOT, {"/": "0:50 /"}, True, "both pods with a root of their own: midstream pod create --own-root"),
        (False, ON_ROOT, {"/": "0:51 /"}, True, "both pods with a root of their own"),  # the machine's, seen through it
        (True, ON_SRV, {"/srv": "8:1 /srv"}, True, "keep it off /srv"),
        (False, ON_SRV, {"/srv": "8:1 /srv"}, True, "keep it off /srv"),
        (True, ON_SRV, {"/srv": "0:99 /"}, False, ""),
        (True, ON_SRV, {}, False, ""),
    ],
)
def test_a_lock_stands_in_the_way_where_both_pods_have_the_same_file(own_root, lock, mounts, shared, remedy):
    found = Belongings(own_root=own_root, locks=[lock])
    there = msgspec.structs.replace(THERE, mounts=mounts)
    problems = what_does_not_arrive(found, there, "b", Files())
    assert [one.code for one in problems] == ["lock-held"] * shared
    for one in problems:
        assert one.message == (
            f"the process holds a lock ({lock.kind}) on {lock.file}, which pod b shares: the copy cannot get it"
        )
        assert remedy in one.hint


def test_a_lock_on_the_machines_root_cannot_move_anywhere_and_another_depends_on_the_pod():
    both = [ON_ROOT, ON_SRV]
    problems, depends = locked_wherever_it_goes(Belongings(locks=both))
    assert ["/var/db" in one.message for one in problems] == [True]
    assert ["every pod with the same /srv shares" in one.message for one in depends] == [True]
    problems, depends = locked_wherever_it_goes(Belongings(own_root=True, locks=both))
    assert (problems, len(depends)) == ([], 1)
