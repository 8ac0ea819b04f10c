from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from checkpoint.baggage import entries


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path, entries.FOLDER)
    yield opened
    os.close(opened)


def test_the_attributes_of_a_folder_are_read_and_set(here: int, tmp_path: Path) -> None:
    os.setxattr(tmp_path, "user.goes", b"1")
    before = entries.attributes(here)
    wanted = msgspec.structs.replace(before, mode=0o711, uid=1, gid=2, mtime_ns=3, xattrs={"user.comes": b"2"})
    entries.set_attributes(here, wanted)
    assert entries.attributes(here) == wanted
    entries.set_attributes(here, before)
    assert entries.attributes(here) == before


def test_what_is_there_is_looked_at_and_not_what_it_points_to(here: int, tmp_path: Path) -> None:
    assert entries.status(here, "link") is None
    (tmp_path / "link").symlink_to("nowhere")
    assert entries.status(here, "link") is not None


def test_a_folder_that_has_moved_in_part_moves_back(here: int, tmp_path: Path) -> None:
    """As an agent that was killed half-way leaves it."""
    for path in ("data/in/stays", "aside/in/moved", "aside/moved"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    entries.move_back(str(tmp_path / "aside"), here, "data")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "data/in/stays", "data/in/moved", "data/moved",
    }  # fmt: skip
    assert not (tmp_path / "aside").exists()


def test_a_file_moves_there_and_back_and_both_kinds_are_removed(here: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    entries.make_room(f"{tmp_path}/deep/down/file")
    entries.move("file", here, f"{tmp_path}/deep/down/file")
    assert not (tmp_path / "file").exists()
    entries.move_back(f"{tmp_path}/deep/down/file", here, "file")
    assert (tmp_path / "file").read_text() == "mine"
    entries.remove(f"{tmp_path}/file")
    entries.remove(f"{tmp_path}/deep")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_cleared_of_its_attributes(tmp_path: Path) -> None:
    os.setxattr(tmp_path, "user.one", b"1")
    entries.clear(str(tmp_path))
    assert os.listxattr(tmp_path) == []
