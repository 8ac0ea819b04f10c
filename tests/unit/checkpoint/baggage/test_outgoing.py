from __future__ import annotations

import mmap
import os
import tarfile
from pathlib import Path

import pytest

from checkpoint.baggage.outgoing import LIST, Outgoing, archive_name, digest_of, grounds, is_baggage, outermost
from checkpoint.core.baggage import ROOT
from checkpoint.core.errors import AgentError, Code


class Sent:
    """A named folder, and what its archives have."""

    def __init__(self, top: Path) -> None:
        self.ground, self.folder, self.images = top / "ground", top / "packed", top / "images"
        for made in (self.ground, self.images):
            made.mkdir()
        self.outgoing = Outgoing(self.folder, None, [str(self.ground)], [])

    def names(self) -> list[str]:
        with tarfile.open(self.folder / archive_name(0)) as packed:
            return sorted(packed.getnames())


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    return Sent(tmp_path)


def test_all_goes_first_and_then_only_what_has_changed(sent: Sent) -> None:
    for name in ("stays", "changes"):
        (sent.ground / name).write_text(name)
    packed = sent.outgoing.first([])
    assert (packed.files, packed.size_bytes, packed.digest) == (2, 12, digest_of(sent.folder, 1))
    assert sent.names() == ["changes", "stays"]
    (sent.ground / "changes").write_text("something longer")
    (sent.ground / "comes").write_text("new")
    sent.outgoing.second([])
    assert sent.names() == ["changes", "comes"]
    sent.outgoing.hand_over(sent.images)
    assert {path.name for path in sent.images.iterdir()} == {LIST, archive_name(0)}
    assert not sent.folder.exists()
    assert all(is_baggage(path.name) for path in sent.images.iterdir())


def test_what_is_written_by_a_mapping_goes_again_though_the_files_times_do_not_say_so(sent: Sent) -> None:
    for name in ("written", "read"):
        (sent.ground / name).write_bytes(bytes(8192))
    (sent.ground / "other").hardlink_to(sent.ground / "written")
    with (sent.ground / "written").open("r+b") as file, (sent.ground / "read").open("rb") as other:
        with mmap.mmap(file.fileno(), 0) as area, mmap.mmap(other.fileno(), 0, prot=mmap.PROT_READ):
            area[0] = 1
            sent.outgoing.first([os.getpid()])
            area[1] = 2
        sent.outgoing.second([])
    assert sent.names() == ["other", "written"]
    with tarfile.open(sent.folder / archive_name(0)) as packed:
        content = packed.extractfile("other")
        assert content is not None
        assert content.read(3) == b"\1\2\0"


def test_where_nothing_could_travel_nothing_is_made(tmp_path: Path) -> None:
    nothing = Outgoing(tmp_path / "packed", None, [], [])
    assert not nothing
    nothing.second([])
    nothing.hand_over(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_inside_another_one_goes_with_that(tmp_path: Path) -> None:
    assert outermost(["/data/in", "/data", "/database", "/data"]) == ["/data", "/database"]


def test_a_named_folder_must_be_one_and_goes_with_the_root_where_it_lies_on_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path / "none", tmp_path / "link"):
        with pytest.raises(AgentError, match="there is no folder") as raised:
            grounds(None, [str(path)])
        assert raised.value.code is Code.NO_FOLDER
    assert grounds(None, ["/etc"]) == [("/etc", Path("/etc"))]
    assert grounds(tmp_path, ["/etc"]) == [(ROOT, tmp_path)]
