"""The twin of checkpoint/baggage/lent.py, on this process's own files."""

from __future__ import annotations

import mmap
import os

import pytest

from checkpoint.baggage import lent
from checkpoint.processes import procfs
from checkpoint.processes.procfs import Mount


@pytest.fixture
def used(tmp_path):
    """A file that is open under a name that is gone, and has another; and the name that the kernel says."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / "one").open("w") as file:
        (folder / "other").hardlink_to(folder / "one")
        (folder / "one").unlink()
        yield file, folder / "one (deleted)"


def of_this_process(file):
    (one,) = (one for one in lent.deleted([os.getpid()]) if os.path.samestat(one.found, os.fstat(file.fileno())))
    return one


def borrowed():
    return [one.name for one in lent.borrowers(lent.deleted([os.getpid()]))]


def test_it_is_lent_the_very_name_and_that_is_taken_back(used):
    file, name = used
    assert lent.can_have_name(of_this_process(file))
    assert str(name) in borrowed()
    lent.lend(of_this_process(file))
    assert name.samefile(f"/proc/self/fd/{file.fileno()}")
    assert str(name) in borrowed()  # where an agent was killed over it, the next one takes it back
    lent.lend(of_this_process(file))
    lent.take_back([str(name), str(name)])
    assert [path.name for path in name.parent.iterdir()] == ["other"]


def test_a_name_that_is_somebody_elses_is_left(used):
    file, name = used
    name.write_text("mine")
    assert str(name) not in borrowed()
    lent.lend(of_this_process(file))
    assert name.read_text() == "mine"
    lent.take_back([str(name.parent / "other")])  # it was lent to nobody
    assert (name.parent / "other").exists()


def test_no_link_is_followed_on_the_way(used, tmp_path):
    file, name = used
    name.parent.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    name.parent.symlink_to("elsewhere")
    stale = of_this_process(file)._replace(name=str(name))
    assert not lent.can_have_name(stale)
    lent.lend(stale)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_of_what_is_mapped_its_descriptors_are_not_looked_at(used, tmp_path):
    _, name = used
    (tmp_path / "mapped").write_bytes(b"mapped")
    with (tmp_path / "mapped").open("r+b") as mapped, mmap.mmap(mapped.fileno(), 0):
        (tmp_path / "mapped").rename(tmp_path / "kept")
        (tmp_path / "mapped").hardlink_to(tmp_path / "kept")
        (tmp_path / "kept").unlink()
        found = {one.name for one in lent.deleted_mappings([os.getpid()])}
    assert f"{tmp_path}/kept (deleted)" in found
    assert str(name) not in found


def test_nobody_links_what_was_deleted_in_an_overlay(used, monkeypatch):
    file, name = used
    mounts = {1: Mount("/", "0:1 /", "ext4"), 2: Mount(str(name.parent), "0:2 /", "overlay")}
    monkeypatch.setattr(procfs, "mounts", lambda pid: mounts)
    assert not lent.can_have_name(of_this_process(file))
    assert lent.mount_of("/elsewhere", mounts) == mounts[1]
    assert lent.mount_of("/elsewhere", {}) is None
