"""Files of a named folder, from one to another: kept, taken back, refused. By the real tar, as the tests' user."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.baggage import archive, outgoing, scan
from checkpoint.baggage.incoming import Incoming, came
from checkpoint.baggage.outgoing import LIST, Outgoing, archive_name
from checkpoint.core import baggage
from checkpoint.core.baggage import Listing
from checkpoint.core.errors import AgentError, Code

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")


class Folders:
    """A source and a destination of the same name for what comes: the list that is packed names the destination."""

    def __init__(self, top: Path) -> None:
        self.source, self.there, self.images, self.agent = (
            top / name for name in ("source", "there", "images", "agent")
        )
        for folder in (self.source, self.there, self.images, self.agent):
            folder.mkdir()

    def pack(self, *, of_the_root: bool = False) -> None:
        found = scan.look(baggage.ROOT if of_the_root else str(self.there), self.source, "elsewhere")
        archive.pack(self.source, found.entries, self.images / archive_name(0), loosely=False)
        self.write(found)

    def write(self, found: Listing) -> None:
        (self.images / LIST).write_bytes(baggage.encode([found]))

    def incoming(self, *, replace_newer: bool = False) -> Incoming:
        return Incoming(self.agent, None, "m", "w", replace_newer=replace_newer)

    def place(self, **how: bool) -> None:
        self.incoming(**how).place(self.images)

    def refused(self, **how: bool) -> AgentError:
        with pytest.raises(AgentError) as caught:
            self.place(**how)
        self.incoming().undo()
        return caught.value


@pytest.fixture
def folders(tmp_path):
    made = Folders(tmp_path)
    (made.source / "d").mkdir()
    (made.source / "d/file").write_text("new")
    return made


def seen(top: Path) -> dict[str, str]:
    return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}


def test_what_is_kept_stays_and_is_known_afterwards_as_what_came(folders):
    (folders.there / "d").mkdir()
    (folders.there / "d/file").write_text("old")
    os.utime(folders.there / "d/file", (1, 1))
    folders.pack()
    folders.place()
    folders.incoming().keep()
    folders.incoming().keep()
    folders.incoming().undo()
    assert seen(folders.there) == {"d/file": "new"}
    assert [one.path for one in came(folders.agent, "w", "m")[0].entries] == ["d", "d/file"]
    assert came(folders.agent, "w", "another") == came(folders.agent, "other", "m") == []


def test_what_came_and_is_gone_is_deleted_where_it_goes_to(folders):
    (folders.there / "d").mkdir()
    (folders.there / "d/file").write_text("new")
    arrived = scan.look(str(folders.source), folders.there)
    (folders.source / "d/file").unlink()
    out = Outgoing(folders.agent / "x", None, [str(folders.source)], [arrived])
    (found,) = out.look()
    folders.write(Listing(str(folders.there), found.entries, "elsewhere"))
    archive.pack(folders.source, found.entries[:1], folders.images / archive_name(0), loosely=False)
    folders.place()
    assert seen(folders.there / "d") == {}
    folders.incoming().undo()
    assert seen(folders.there) == {"d/file": "new"}


def test_a_link_where_a_folder_comes_is_not_followed(folders, tmp_path):
    (tmp_path / "outside").mkdir()
    (folders.there / "d").symlink_to(tmp_path / "outside")
    folders.pack()
    assert folders.refused().code is Code.FILE_CONFLICT
    assert (folders.there / "d").is_symlink()
    assert list((tmp_path / "outside").iterdir()) == []


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_on_another_file_system_is_not_entered(folders):
    with mounted(folders.there / "d"):
        folders.pack()
        error = folders.refused()
    assert (error.code, "another file system" in error.problem.message) == (Code.FILE_CONFLICT, True)


def test_a_folder_for_mounts_on_which_something_is_mounted_there_too_stays_as_it_is(folders):
    (folders.source / "d/file").unlink()
    (folders.source / "d").chmod(0o711)
    (folders.source / "more").write_text("new")
    with mounted(folders.there / "d"):
        (folders.there / "d/theirs").touch()
        before = (folders.there / "d").stat()
        folders.pack()
        folders.place()
        folders.incoming().keep()
        after = (folders.there / "d").stat()
        assert (after.st_dev, after.st_mode, after.st_mtime_ns) == (before.st_dev, before.st_mode, before.st_mtime_ns)
        assert [path.name for path in (folders.there / "d").iterdir()] == ["theirs"]
    assert (folders.there / "more").read_text() == "new"


def test_a_socket_is_neither_sent_nor_replaced(folders):
    with socket.socket(socket.AF_UNIX) as here, socket.socket(socket.AF_UNIX) as there:
        here.bind(str(folders.source / "sock"))
        there.bind(str(folders.there / "d"))
        assert scan.look("/x", folders.source).left == ["sock"]
        folders.pack()
        assert "is a device or a socket there" in folders.refused().problem.message


def test_what_is_newer_there_is_replaced_only_if_that_is_asked_for(folders):
    (folders.there / "d").mkdir()
    (folders.there / "d/file").write_text("newer")
    os.utime(folders.there / "d/file", (1 << 31, 1 << 31))
    folders.pack()
    error = folders.refused()
    assert error.problem.message == f"{folders.there}/d/file is newer there"
    assert seen(folders.there) == {"d/file": "newer"}
    folders.place(replace_newer=True)
    assert seen(folders.there / "d") == {"file": "new"}
    folders.incoming().undo()
    assert seen(folders.there) == {"d/file": "newer"}


def test_files_of_a_root_go_into_no_shared_root(folders):
    folders.pack(of_the_root=True)
    assert folders.refused().code is Code.NO_ROOT


def test_a_folder_that_is_not_there_is_named(folders):
    folders.pack()
    folders.there.rmdir()
    assert folders.refused().code is Code.NO_FOLDER


def test_a_folder_that_both_share_does_not_travel(folders):
    found = scan.look(str(folders.there), folders.source, outgoing.identity(folders.there))
    folders.write(found)
    folders.place()  # there is no archive to read
    assert seen(folders.there) == {}


@pytest.mark.parametrize("path", ["d/file", "d"])
def test_what_did_not_come_or_is_not_on_the_list_is_noticed_before_it_is_used(folders, path):
    folders.pack()
    found = scan.look(str(folders.there), folders.source, "elsewhere")
    kept = [one for one in found.entries if one.path != path]
    folders.write(Listing(found.ground, kept, "elsewhere"))
    assert folders.refused().code is Code.IMAGE_DAMAGED
    archive.pack(folders.source, kept[:0], folders.images / archive_name(0), loosely=False)
    folders.write(found)
    assert folders.refused().code is Code.FILES
    assert seen(folders.there) == {}


def test_what_was_packed_before_the_freeze_is_proved_by_its_digest(folders):
    out = Outgoing(folders.agent / "x", None, [str(folders.source)], [])
    packed = out.first([])
    assert (packed.files, packed.size_bytes) == (1, 3)
    with (Path(packed.folder) / archive_name(0)).open("r+b") as file:
        file.seek(600)
        file.write(b"x")
    with pytest.raises(AgentError) as caught:
        folders.incoming().stage(Path(packed.folder), packed.digest)
    assert caught.value.code is Code.IMAGE_DAMAGED
    out.close()


def test_a_full_disk_and_a_broken_archive_are_told_apart(folders):
    (folders.images / "broken").write_bytes(b"this is no archive" * 100)
    with pytest.raises(AgentError) as caught:
        archive.unpack(folders.images / "broken", folders.there)
    assert caught.value.code is Code.FILES
    found = scan.look("/x", folders.source)
    with pytest.raises(AgentError) as caught:
        archive.pack(folders.source, found.entries, Path("/dev/full"), loosely=False)
    assert caught.value.code is Code.NO_SPACE
    (folders.source / "large").write_bytes(os.urandom(1 << 20))
    found = scan.look("/x", folders.source)
    archive.pack(folders.source, found.entries, folders.images / "good", loosely=False)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folders.there)], check=True)
    try:
        for _ in range(2):  # written in part, then not at all
            with pytest.raises(AgentError, match="there is no room for the workload's files") as caught:
                archive.unpack(folders.images / "good", folders.there)
            assert (caught.value.code, "--with" in caught.value.problem.hint) == (Code.NO_SPACE, True)
            (folders.there / "filler").write_bytes(bytes(os.statvfs(folders.there).f_bavail * 4096))
    finally:
        subprocess.run(["umount", str(folders.there)], check=True)


@pytest.mark.parametrize("gone", ["d", "other", ""])
def test_what_others_have_removed_meanwhile_keeps_nothing_from_going_back(folders, gone):
    """Or an agent that is to take it back at its start would never start."""
    (folders.source / "other").mkdir()
    (folders.source / "other/file").write_text("new")
    for name in ("d", "other"):
        (folders.there / name).mkdir()
        (folders.there / name / "file").write_text("old")
        os.utime(folders.there / name / "file", (1, 1))
    folders.pack()
    folders.place()
    assert seen(folders.there)["d/file"] == seen(folders.there)["other/file"] == "new"
    shutil.rmtree(folders.there / gone)
    folders.incoming().undo()
    left = {"d", "other"} - {gone} if gone else set()
    assert (seen(folders.there) if gone else {}) == {f"{name}/file": "old" for name in left}
    assert not list(folders.agent.iterdir())


def test_what_others_have_made_meanwhile_stays(folders):
    (folders.there / "d").mkdir()
    (folders.there / "d/file").write_text("old")
    os.utime(folders.there / "d/file", (1, 1))
    folders.pack()
    folders.place()
    shutil.rmtree(folders.there / "d")
    (folders.there / "d").write_text("theirs")
    folders.incoming().undo()
    assert seen(folders.there) == {"d": "theirs"}


def test_a_full_disk_does_not_keep_what_was_replaced(folders):
    """It may be what fills it."""
    (folders.there / "d").mkdir()
    (folders.there / "d/file").write_text("old")
    os.utime(folders.there / "d/file", (1, 1))
    folders.pack()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folders.agent)], check=True)
    try:
        folders.place()
        found = os.statvfs(folders.agent)
        (folders.agent / "filler").write_bytes(bytes(found.f_bavail * found.f_frsize))
        with pytest.raises(OSError, match="No space"):
            folders.incoming().keep()
        assert seen(folders.there) == {"d/file": "new"}
        (folders.agent / "filler").unlink()
        folders.incoming().keep()
        assert came(folders.agent, "w", "m")
    finally:
        subprocess.run(["umount", str(folders.agent)], check=True)
