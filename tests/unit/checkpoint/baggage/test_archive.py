from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from checkpoint.baggage import archive, scan
from checkpoint.core.baggage import Entry, Kind
from checkpoint.core.errors import AgentError, Code
from tests.harness.layers import ACL_NAME, access_list

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")


class Ground:
    """A folder with a file, a hole, a link and an inner folder; what is in it, packed and unpacked elsewhere."""

    def __init__(self, top: Path) -> None:
        self.source, self.there, self.archive = top / "source", top / "there", top / "files.tar"
        (self.source / "inner").mkdir(parents=True)
        (self.source / "inner" / "file").write_text("content")
        os.setxattr(self.source / "inner" / "file", "user.kept", b"yes")
        (self.source / "link").symlink_to("inner/file")
        with (self.source / "hole").open("wb") as file:
            file.truncate(64 << 20)
        for path, mode in (("inner/file", 0o640), ("inner", 0o711)):
            os.chown(self.source / path, 12, 34)
            (self.source / path).chmod(mode)
            os.utime(self.source / path, ns=(1, 1_000_000_007))
        os.setxattr(self.source / "inner" / "file", ACL_NAME, access_list(56))
        self.there.mkdir()

    def entries(self) -> list[Entry]:
        return scan.look(str(self.source), self.source).entries

    def pack(self, *, loosely: bool = False) -> None:
        archive.pack(self.source, self.entries(), self.archive, loosely=loosely)

    def by_path(self) -> dict[str, Entry]:
        return {one.path: one for one in self.entries()}


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def test_all_of_it_comes_back_and_holes_take_no_room(ground: Ground) -> None:
    ground.pack()
    assert ground.archive.stat().st_size < 1 << 20
    archive.unpack(ground.archive, ground.there)
    archive.compare(ground.there, ground.by_path())
    assert os.getxattr(ground.there / "inner" / "file", "user.kept") == b"yes"
    assert os.getxattr(ground.there / "inner" / "file", ACL_NAME) == access_list(56)
    assert (ground.there / "hole").stat().st_blocks == 0


def test_what_is_not_wanted_is_not_packed(ground: Ground) -> None:
    wanted = [one for one in ground.entries() if not one.path.startswith("inner")]
    archive.pack(ground.source, wanted, ground.archive, loosely=False)
    archive.unpack(ground.archive, ground.there)
    assert sorted(path.name for path in ground.there.iterdir()) == ["hole", "link"]


@pytest.mark.parametrize("loosely", [True, False])
def test_what_goes_while_it_is_packed_is_missed_only_inside_the_freeze(ground: Ground, loosely: bool) -> None:
    wanted = ground.entries()
    (ground.source / "inner" / "file").unlink()
    if loosely:
        archive.pack(ground.source, wanted, ground.archive, loosely=True)
    else:
        with pytest.raises(AgentError, match="No such file") as raised:
            archive.pack(ground.source, wanted, ground.archive, loosely=False)
        assert raised.value.code is Code.FILES


def test_what_came_is_held_against_the_list(ground: Ground) -> None:
    ground.pack()
    archive.unpack(ground.archive, ground.there)
    known = ground.by_path()
    file = known["inner/file"]
    for wrong, code, words in (
        ({**known, "more": Entry("more", Kind.FILE)}, Code.FILES, "did not come"),
        ({path: one for path, one in known.items() if path != "hole"}, Code.IMAGE_DAMAGED, "not on their list"),
        ({**known, "link": msgspec.structs.replace(file, path="link")}, Code.IMAGE_DAMAGED, "is a link now"),
        ({**known, "inner/file": msgspec.structs.replace(file, size=8)}, Code.FILES, "changed while it was packed"),
    ):
        with pytest.raises(AgentError, match=words) as raised:
            archive.compare(ground.there, wrong)
        assert raised.value.code is code


def test_what_stands_still_is_given_up(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system whose server is gone: here nobody reads the pipe that tar is to write to."""
    monkeypatch.setattr(archive, "STUCK_SECONDS", 0.2)
    os.mkfifo(ground.archive)
    with pytest.raises(AgentError, match="tar has neither read nor written") as raised:
        ground.pack()
    assert raised.value.code is Code.FILES
