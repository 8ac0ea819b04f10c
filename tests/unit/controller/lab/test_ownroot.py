"""A pod's own root: the decisions; that it works is shown by tests/system/test_pods.py."""

from __future__ import annotations

from pathlib import Path

from controller.lab import ownroot


def test_what_is_inside_another_shared_folder_is_shared_already():
    assert ownroot.outermost(["/run/m", "/srv/x/y", "/srv", "/srv/x", "/run/m"]) == ["/run/m", "/srv"]
    assert ownroot.outermost(["/srv2", "/srv"]) == ["/srv", "/srv2"]


def test_the_mounts_below_the_root_are_found_each_once():
    found = list(ownroot.mounted_below_root())
    assert "/proc" in found
    assert "/" not in found
    assert len(found) == len(set(found))
    assert all(Path(path).exists() for path in found)
