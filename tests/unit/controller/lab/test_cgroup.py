"""Which version of control groups limits memory here, and a limit that is set."""

from __future__ import annotations

import pytest

from controller.lab import cgroup
from controller.lab.cgroup import Controller, find
from controller.lab.errors import NoMemoryLimit


def test_version_1_is_found_by_its_mount_option():
    mounts = "cgroup /g/cpu cgroup rw,cpu 0 0\ncgroup /g/memory cgroup rw,memory 0 0\ncgroup2 /g/u cgroup2 rw 0 0\n"
    found = find(mounts)
    assert found is not None
    assert (str(found.root), found.version, found.limit_file) == ("/g/memory", 1, "memory.limit_in_bytes")


@pytest.mark.parametrize(("controllers", "there"), [("cpu io memory pids\n", True), ("cpu io\n", False), (None, False)])
def test_version_2_is_asked_which_controllers_it_has(tmp_path, controllers, there):
    if controllers is not None:
        (tmp_path / "cgroup.controllers").write_text(controllers)
    found = find(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    assert found == (Controller(tmp_path, 2) if there else None)
    assert found is None or found.limit_file == "memory.max"


def test_a_group_of_version_2_is_made_below_the_root_with_its_limit(tmp_path):
    root = tmp_path / "cgroup"
    root.mkdir()
    controller = Controller(root, 2)
    cgroup.create_in(controller, root / "midstream-1-a", 1 << 20)
    assert (root / "cgroup.subtree_control").read_text() == "+memory"
    assert (root / "midstream-1-a" / "memory.max").read_text() == "1048576"


def test_what_cannot_be_made_is_refused_and_not_left_behind(tmp_path):
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.limit_in_bytes").mkdir()
    with pytest.raises(NoMemoryLimit):
        cgroup.create_in(Controller(tmp_path, 1), group, 1)
    with pytest.raises(NoMemoryLimit):
        cgroup.create_in(Controller(tmp_path / "missing", 1), tmp_path / "missing" / "group", 1)
    assert not (tmp_path / "missing").exists()


def test_removing_waits_until_the_group_is_empty(tmp_path):
    cgroup.remove(tmp_path / "missing")
    (tmp_path / "group").mkdir()
    cgroup.remove(tmp_path / "group")
    assert not (tmp_path / "group").exists()
    (tmp_path / "busy" / "process").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        cgroup.remove(tmp_path / "busy", deadline_seconds=0.05)
