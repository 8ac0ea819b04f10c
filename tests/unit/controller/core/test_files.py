"""What a workload's files would miss where it arrives."""

from __future__ import annotations

import msgspec
import pytest

from checkpoint.api import Belongings, DeletedFile, Files, Ground, OpenMount, Room
from controller.core.files import what_does_not_arrive

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
            "the deleted file /tmp/scratch, still open, has 1.0",
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
