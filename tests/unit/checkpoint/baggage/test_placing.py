"""Steps on real files: planned, done, and undone wherever an agent was killed between them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.baggage import scan
from checkpoint.baggage.placing import Placing, Step
from checkpoint.core.baggage import Entry, Kind, Listing
from checkpoint.core.errors import AgentError, Code

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")

OLD, NEW = {"kept": "as it was", "d/file": "old", "gone": "old"}, {"d/file": "new", "d/e/more": "new", "fresh": "new"}


def fill(top: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)


def seen(top: Path) -> dict[str, str]:
    return {str(path.relative_to(top)): path.read_text() for path in sorted(top.rglob("*")) if path.is_file()}


class Ground:
    """A destination with old files, and new ones unpacked beside them."""

    def __init__(self, top: Path) -> None:
        self.top = top / "ground"
        fill(self.top, OLD)
        self.times = self.time_of("d")
        self.placing = Placing(str(self.top), ".staging", None, {})
        self.placing.begin()
        fill(Path(self.placing.new), NEW)
        os.utime(f"{self.placing.new}/d", (7, 7))
        found = scan.look(str(self.top), Path(self.placing.new))
        self.listing = Listing(str(self.top), [*found.entries, Entry("gone", Kind.GONE)], "elsewhere")

    def time_of(self, path: str) -> int:
        return (self.top / path).stat().st_mtime_ns

    def plan(self) -> list[Step]:
        return self.placing.plan(self.listing, replace_newer=True)

    def assert_old(self) -> None:
        assert seen(self.top) == OLD
        assert self.time_of("d") == self.times
        assert not Path(self.placing.staging).exists()


@pytest.fixture
def ground(tmp_path):
    return Ground(tmp_path)


def test_everything_is_planned_before_the_first_is_done(ground):
    steps = ground.plan()
    assert [(one.what, one.path) for one in steps] == [
        ("dress", "d"), ("place", "d/e"), ("place", "d/file"), ("place", "fresh"), ("remove", "gone"),
    ]  # fmt: skip
    assert len({one.aside for one in steps}) == len(steps)
    assert {name: text for name, text in seen(ground.top).items() if not name.startswith(".staging")} == OLD


def test_what_was_done_is_there_with_its_folders_times_and_can_be_taken_back(ground):
    steps = ground.plan()
    ground.placing.do(steps)
    found = {name: text for name, text in seen(ground.top).items() if not name.startswith(".staging")}
    assert found == NEW | {"kept": "as it was"}
    assert ground.time_of("d") == 7_000_000_000
    ground.placing.undo(steps)
    ground.assert_old()


@pytest.mark.parametrize("done", range(5))
def test_an_agent_that_was_killed_after_any_step_takes_back_all_of_them(ground, done):
    steps = ground.plan()
    for step in [one for one in steps if one.what != "dress"][:done]:
        ground.placing._do(step)
    Placing(str(ground.top), ".staging", None, {}).undo(steps)  # the agent after it
    ground.assert_old()


def test_what_went_into_its_place_and_was_changed_there_is_not_what_comes_back(ground):
    steps = ground.plan()
    ground.placing.do(steps)
    (ground.top / "d/file").write_text("changed by the copy")
    ground.placing.undo(steps)
    ground.assert_old()


def test_a_folder_that_vanished_meanwhile_is_refused_and_the_rest_is_taken_back(ground):
    steps = ground.plan()
    (ground.top / "d/file").unlink()
    (ground.top / "d").rmdir()
    with pytest.raises(AgentError) as caught:
        ground.placing.do(steps)
    assert caught.value.code is Code.FILE_CONFLICT


def test_what_was_unpacked_first_and_is_of_another_kind_by_now_goes(ground):
    new = Path(ground.placing.new)
    first = {one.path: one for one in scan.look("/x", new).entries}
    wanted = {path: one for path, one in first.items() if path not in ("fresh", "d/e", "d/e/more")}
    ground.placing.thin(wanted, first)
    assert seen(new) == {"d/file": "new"}
    assert not (new / "d/e").exists()


def test_what_the_layer_has_only_been_warmed_with_is_the_machines(tmp_path):
    """Taken up by us, not written by the destination: it may be replaced, newer or not."""
    fill(tmp_path / "ground", {"file": "the machine's"})
    layer = tmp_path / "layer"
    layer.mkdir()
    known: dict[str, tuple[int, int]] = {}
    placing = Placing(str(tmp_path / "ground"), ".staging", layer, known)
    placing.begin()
    fill(Path(placing.new), {"file": "new"})
    os.utime(f"{placing.new}/file", (1, 1))  # what is there is newer
    listing = Listing("/", scan.look("/", Path(placing.new)).entries, "elsewhere")
    (step,) = placing.plan(listing, replace_newer=False)
    placing.warm([step])
    found = (tmp_path / "ground/file").stat()
    assert known == {"file": (found.st_size, found.st_mtime_ns)}
    os.link(tmp_path / "ground/file", layer / "file")  # as the kernel does it: the layer has a copy now
    assert placing.plan(listing, replace_newer=False) == [step]
    os.utime(layer / "file", ns=(5, found.st_mtime_ns + 5))
    with pytest.raises(AgentError, match="is newer there"):
        placing.plan(listing, replace_newer=False)
