"""The lab's folder and its lock."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from controller.lab.addressing import Addressing
from controller.lab.errors import BadHome, BadShare, UnsafeFolder
from controller.lab.home import Home, check_shared, make_private, remove_tree


def test_one_at_a_time_may_change_a_lab_even_when_its_folder_goes_meanwhile(tmp_path):
    home, inside, most = Home(tmp_path / "home"), 0, []

    def change() -> None:
        nonlocal inside
        for _ in range(20):
            with home.locked():
                inside += 1
                most.append(inside)
                inside -= 1
                home.forget(None)

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80


def test_the_number_is_kept_until_it_is_forgotten(tmp_path):
    home = Home(tmp_path / "home")
    assert home.addressing() is None
    home.path.mkdir()
    home.record(Addressing(7))
    assert home.addressing() == Addressing(7)
    home.forget(None)
    assert home.addressing() is None
    assert not home.path.exists()


def test_a_damaged_number_is_none(tmp_path):
    (tmp_path / "lab.json").write_text("{")
    assert Home(tmp_path).addressing() is None


def test_what_is_not_the_labs_is_not_forgotten(tmp_path):
    home = Home(tmp_path)
    (tmp_path / "migrations").mkdir()
    home.forget(None)
    assert (tmp_path / "migrations").is_dir()


@pytest.mark.parametrize("place", ["/proc/none", "/dev/null", "/dev/null/below"])
def test_a_home_that_cannot_be_made_is_named(place):
    with pytest.raises(BadHome, match=f"{place} cannot be used"), Home(Path(place)).locked():
        pass


def test_a_private_folder_is_roots_alone(tmp_path):
    folder = tmp_path / "images"
    make_private(folder)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_enter_or_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    (tmp_path / "file").touch(0o600)
    for name in ("open", "link", "file"):
        with pytest.raises(UnsafeFolder):
            make_private(tmp_path / name)


def test_a_tree_is_removed_if_it_is_there(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_only_a_plain_folder_can_be_shared(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert check_shared(str(tmp_path)) == str(tmp_path)
    for path in ("/", "relative", f"{tmp_path}/", f"{tmp_path}/file", f"{tmp_path}/link", f"{tmp_path}/missing"):
        with pytest.raises(BadShare):
            check_shared(path)
