"""Any files, changed in any way in one pod's root, are the same in the other's; taken back they have never been there.

On real overlays, by the real tar: only the pods around them are missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from checkpoint.baggage.incoming import Incoming
from checkpoint.baggage.outgoing import Outgoing
from checkpoint.core.errors import AgentError, Code
from tests.harness.layers import ACL_NAME, ACL_OF_FOLDERS, Layered, access_list, layered, picture

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

Change = Callable[[Path], None]

paths = st.sampled_from(
    ["low", "low2", "d", "d/x", "d/e", "d/e/z", "new", "n", "n/m", "n/m/o", "d/\udcff", "-C", "ä b\n"]
)
times = st.integers(0, 2_000_000_000_123_456_789)


def write(path: str, size: int, hole: int) -> Change:
    def change(root: Path) -> None:
        if (root / path).is_fifo():
            return  # to open it would wait for a reader
        with (root / path).open("ab") as file:
            file.truncate(hole)
            file.seek(hole)
            file.write(bytes(size % 251 for _ in range(size)))

    return change


def remove(path: str) -> Change:
    def change(root: Path) -> None:
        if (root / path).is_dir() and not (root / path).is_symlink():
            shutil.rmtree(root / path)
        else:
            (root / path).unlink()

    return change


def anew(path: str) -> Change:
    """Deletes a folder with what is in it, and makes it again: an opaque one."""

    def change(root: Path) -> None:
        shutil.rmtree(root / path)
        (root / path).mkdir()

    return change


def dress(path: str, mode: int, owner: int, time: int, value: bytes, listed: bool) -> Change:
    """`listed`: with access control lists, too."""

    def change(root: Path) -> None:
        target = root / path
        os.chown(target, owner, owner + 1, follow_symlinks=False)
        if listed and not target.is_symlink():
            os.setxattr(target, ACL_NAME, access_list(owner))
            if target.is_dir():
                os.setxattr(target, ACL_OF_FOLDERS, access_list(owner + 1))
        if not target.is_symlink():
            target.chmod(mode)
            os.setxattr(target, "trusted.midstream", value)
            os.setxattr(target, "user.midstream", value)
        os.utime(target, ns=(time, time), follow_symlinks=False)

    return change


changes = st.lists(
    st.one_of(
        st.builds(write, paths, st.integers(0, 5000), st.sampled_from([0, 0, 1 << 16, 1 << 20])),
        st.builds(remove, paths),
        st.builds(anew, st.sampled_from(["d", "d/e", "n"])),
        st.builds(dress, paths, st.sampled_from([0o600, 0o755, 0o4711, 0o1777, 0o000]), st.integers(0, 70000), times,
                  st.binary(min_size=1, max_size=20), st.booleans()),
        st.builds(lambda path: lambda root: (root / path).mkdir(), paths),
        st.builds(lambda path: lambda root: os.mkfifo(root / path), paths),
        st.builds(lambda path, to: lambda root: (root / path).symlink_to(to), paths, st.sampled_from(["low", "d"])),
        st.builds(lambda path, to: lambda root: os.link(root / path, root / to, follow_symlinks=False), paths, paths),
        st.builds(lambda path, to: lambda root: (root / path).rename(root / to), paths, paths),
    ),
    max_size=12,
)  # fmt: skip


def make_lower(folder: Path) -> Path:
    """No file in it has two names: an overlay makes two files of them once one of them is written."""
    (folder / "d/e").mkdir(parents=True)
    for name in ("low", "d/x", "d/y", "d/e/z"):
        (folder / name).write_text(name)
        os.utime(folder / name, ns=(1, 1))
    return folder


def apply(root: Path, wanted: list[Change]) -> None:
    for change in wanted:
        with contextlib.suppress(OSError, shutil.SameFileError):
            change(root)


class Way:
    """From one root to the other."""

    def __init__(self, folder: Path, a: Layered, b: Layered) -> None:
        (folder / "agent").mkdir()
        (folder / "images").mkdir()
        self.images = folder / "images"
        self.out = Outgoing(folder / "archives", a.layer, [], [])
        self.new_in = lambda: Incoming(folder / "agent", b.layer, "m", "w", replace_newer=False, root=str(b.root))
        self.come = self.new_in()

    def first(self) -> None:
        packed = self.out.first([])
        self.come.stage(Path(packed.folder), packed.digest)

    def second(self) -> None:
        self.out.second([])
        self.out.hand_over(self.images)
        self.come.place(self.images)


@contextlib.contextmanager
def roots():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        lower = make_lower(folder / "lower")
        with layered(folder / "a", lower) as a, layered(folder / "b", lower) as b:
            yield folder, a, b


modest = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


@modest
@given(changes, changes, st.booleans())
def test_what_was_changed_before_and_during_the_transfer_is_the_same_there(before, during, ahead):
    with roots() as (folder, a, b):
        untouched = picture(b.root)
        way = Way(folder, a, b)
        apply(a.root, before)
        if ahead:
            way.first()
            assert picture(b.root) == untouched
        apply(a.root, during)
        way.second()
        assert picture(b.root) == picture(a.root)
        way.new_in().undo()
        assert picture(b.root) == untouched


@modest
@given(changes, changes)
def test_what_is_refused_or_taken_back_leaves_what_the_destination_had(mine, theirs):
    with roots() as (folder, a, b):
        apply(b.root, theirs)
        untouched = picture(b.root)
        way = Way(folder, a, b)
        apply(a.root, mine)
        refused: list[Code] = []
        try:
            way.first()
            way.second()
        except AgentError as error:
            refused.append(error.code)
        assert set(refused) <= {Code.FILE_CONFLICT}
        way.new_in().undo()
        assert picture(b.root) == untouched
