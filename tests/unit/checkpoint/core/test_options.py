"""What CRIU is asked to do: the choices a move cannot do without."""

from __future__ import annotations

from checkpoint.core import options


def test_both_ways_leave_the_tree_stopped_and_the_network_alone():
    for asked in (options.dump(7, "/images", 3, 1 << 20), options.restore("/images", 3)):
        assert asked["leave_stopped"] is True
        assert asked["tcp_established"] is True
        assert asked["network_lock"] == 3
        assert asked["manage_cgroups_mode"] == 0
        assert (asked["images_dir"], asked["images_dir_fd"], asked["work_dir_fd"]) == ("/images", -1, 3)


def test_a_dump_names_its_tree_and_a_restore_is_nobodys_child():
    assert options.dump(7, "/images", 3, 1 << 20)["pid"] == 7
    assert options.dump(7, "/images", 3, 1 << 20)["tcp_skip_in_flight"] is True
    assert options.dump(7, "/images", 3, 1 << 20)["ghost_limit"] == 1 << 20
    assert "rst_sibling" not in options.restore("/images", 3)
