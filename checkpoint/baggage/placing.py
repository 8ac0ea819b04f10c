"""Putting unpacked files in their place, so that it can be taken back.

In each ground lies a folder of ours, the **staging**, where they were unpacked. From there they are renamed to where
they belong, and what was there is renamed into the staging: nothing is copied, however large it is. Every step is on
record before the first is done, and each can be undone whether it was done or not: so an agent that was killed half-way
takes all of it back at its restart.

Nothing is reached through a symbolic link or across a mount: each folder on the way is opened by itself, without
following (openat(2), O_NOFOLLOW), and must lie on the ground's own file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from checkpoint.baggage import entries, scan
from checkpoint.baggage.entries import Attributes
from checkpoint.core import baggage
from checkpoint.core.baggage import Entry, Kind, Listing
from checkpoint.core.errors import AgentError, Code

TakenUp = dict[str, tuple[int, int]]
"""Paths with size and time of the file (ns)."""


_REPLACED = (FileNotFoundError, NotADirectoryError, AgentError)
"""How a path that was a folder a moment ago is missed, or found to be none."""


class Step(msgspec.Struct, frozen=True):
    """`place`, `remove` or `dress` one path; `aside` is the name under which the staging keeps what was there."""

    what: str
    path: str
    aside: str
    before: Attributes | None = None
    after: Attributes | None = None


class Placing:
    """The files of one ground, on their way to their places."""

    def __init__(self, ground: str, staging: str, layer: Path | None, taken_up: TakenUp) -> None:
        """`layer`: where a ground keeps what was written to it, if it is one over another; None: it is plain.
        `taken_up` is what it has of the machine's only because of `warm`, now or before."""
        self.ground, self._layer, self._taken_up = ground, layer, taken_up
        self.staging = f"{ground.rstrip('/')}/{staging}"
        self.new, self.old = f"{self.staging}/new", f"{self.staging}/old"

    def begin(self) -> None:
        """Make the staging, empty. Raises AgentError NO_SPACE."""
        shutil.rmtree(self.staging, ignore_errors=True)
        try:
            for folder in (self.staging, self.new, self.old):
                os.mkdir(folder, 0o700)
        except OSError as error:
            message = f"the workload's files cannot be put into {self.ground}: {error.strerror}"
            raise AgentError(Code.FILES, message) from error

    def thin(self, wanted: Mapping[str, Entry], first: Mapping[str, Entry]) -> None:
        """Remove from what was unpacked `first` what is not there any more, or is of another kind by now, and from
        folders that are unpacked again the attributes: tar only adds to them."""
        for path, one in first.items():
            if one.kind is Kind.FOLDER and wanted.get(path, one) != one:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    entries.clear(f"{self.new}/{path}")
        stale = [one.path for one in scan.look(self.new, Path(self.new)).entries
                 if one.path not in wanted or wanted[one.path].kind is not one.kind]  # fmt: skip
        for path in stale:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone with the folder above it
                entries.remove(f"{self.new}/{path}")

    def plan(self, listing: Listing, *, replace_newer: bool) -> list[Step]:
        """What has to be done. Raises AgentError FILE_CONFLICT for what must not be replaced."""
        steps: list[Step] = []
        whole: set[str] = set()  # folders that come with what is in them
        for one in listing.entries:
            if whole.isdisjoint(baggage.ancestors(one.path)):
                step = self._step(one, f"{len(steps)}", replace_newer)
                if step is not None:
                    steps.append(step)
                    whole |= {one.path} if step.what == "place" else set()
        # A folder in which something is renamed would have another time afterwards.
        touched = {one.path.rpartition("/")[0] for one in steps if one.what != "dress"}
        return [one for one in steps if one.what != "dress" or one.path in touched or one.before != one.after]

    def _step(self, one: Entry, aside: str, replace_newer: bool) -> Step | None:
        with self._parent(one.path) as (parent, name):
            there = None if parent is None else entries.status(parent, name)
            if there is None:
                return None if one.kind is Kind.GONE else Step("place", one.path, aside)
            kind = scan.kind_of(there)
            if kind is None:
                raise AgentError(Code.FILE_CONFLICT, f"{self._full(one.path)} is a device or a socket there")
            if kind is one.kind is Kind.FOLDER and there.st_dev != os.stat(self.ground).st_dev:
                return None  # something is mounted there too: it stays as it is, and nothing is put into it
            known = scan.entry(one.path, kind, there)
            if kind is Kind.FOLDER and one.kind is Kind.FOLDER and not one.whole:
                assert parent is not None
                return self._dressing(one, aside, parent, name)
            words = "" if replace_newer or not self._written(one.path) else baggage.conflict(one, known)
        if words:
            raise AgentError(Code.FILE_CONFLICT, f"{self._full(one.path)} {words}")
        return Step("remove" if one.kind is Kind.GONE else "place", one.path, aside)

    def _dressing(self, one: Entry, aside: str, parent: int, name: str) -> Step:
        folder = self._open(parent, name)
        try:
            before = entries.attributes(folder)
        finally:
            os.close(folder)
        return Step("dress", one.path, aside, before, self._attributes_of_new(one.path))

    def _attributes_of_new(self, path: str) -> Attributes | None:
        try:
            folder = os.open(f"{self.new}/{path}", entries.FOLDER)
        except FileNotFoundError:  # it went while it was packed, before the freeze
            return None
        try:
            return entries.attributes(folder)
        finally:
            os.close(folder)

    def _written(self, path: str) -> bool:
        """Whether the destination has written it itself; what only the layers below have is the machine's."""
        if self._layer is None:
            return True
        try:
            found = os.lstat(self._layer / path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return self._taken_up.get(path) != (found.st_size, found.st_mtime_ns)

    def warm(self, steps: list[Step]) -> None:
        """Have the layer take up what will be renamed: a copy that is made now is not made inside the freeze."""
        for step in steps:
            if step.what != "dress" and not self._written(step.path):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    self._take_up(step.path)

    def _take_up(self, path: str) -> None:
        full = f"{self.ground.rstrip('/')}/{path}"
        found = os.lstat(full)
        if not stat.S_ISDIR(found.st_mode):
            self._taken_up[path] = (found.st_size, found.st_mtime_ns)
            os.chown(full, found.st_uid, found.st_gid, follow_symlinks=False)

    def do(self, steps: list[Step]) -> None:
        """Raises AgentError; then `undo`."""
        for step in steps:
            if step.what != "dress":
                self._do(step)
        for step in reversed(steps):  # the inner ones first: an entry that is renamed changes the time of its folder
            if step.after is not None:
                self._dress(step.path, step.after)

    def _do(self, step: Step) -> None:
        with self._parent(step.path) as (parent, name):
            if parent is None:
                raise AgentError(Code.FILE_CONFLICT, f"the folder of {self._full(step.path)} is gone")
            try:
                if entries.status(parent, name) is not None:
                    entries.move(name, parent, f"{self.old}/{step.aside}")
                if step.what == "place":
                    os.rename(f"{self.new}/{step.path}", name, dst_dir_fd=parent)
            except OSError as error:
                message = f"{self._full(step.path)} cannot be put in its place: {error.strerror}"
                raise AgentError(Code.FILES, message) from error

    def undo(self, steps: list[Step]) -> None:
        """Put everything back as it was, as far as it was changed, and remove the staging. Raises OSError.

        What others have removed or replaced meanwhile stays so.
        """
        for step in reversed(steps):
            if step.what != "dress":
                with contextlib.suppress(*_REPLACED):
                    self._undo(step)
        for step in reversed(steps):
            if step.before is not None:
                with contextlib.suppress(*_REPLACED):
                    self._dress(step.path, step.before)
        self.end()

    def _undo(self, step: Step) -> None:
        with self._parent(step.path) as (parent, name):
            if parent is None:
                return
            if step.what == "place" and not os.path.lexists(f"{self.new}/{step.path}"):
                entries.make_room(f"{self.new}/{step.path}")
                with contextlib.suppress(FileNotFoundError):
                    os.rename(name, f"{self.new}/{step.path}", src_dir_fd=parent)
            if os.path.lexists(f"{self.old}/{step.aside}"):
                entries.move_back(f"{self.old}/{step.aside}", parent, name)

    def end(self) -> None:
        """Remove the staging, with what was replaced."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def _dress(self, path: str, wanted: Attributes) -> None:
        with self._parent(path) as (parent, name):
            if parent is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            folder = self._open(parent, name)
            try:
                entries.set_attributes(folder, wanted)
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int | None, str]]:
        """The folder of a path, opened (None: it is not there), and the path's last name."""
        *folders, name = path.split("/")
        here: int | None = os.open(self.ground, entries.FOLDER)
        try:
            for folder in folders:
                assert here is not None
                try:
                    inner: int | None = self._open(here, folder)
                except FileNotFoundError:
                    inner = None
                os.close(here)
                here = inner
                if here is None:
                    break
            yield here, name
        finally:
            if here is not None:
                os.close(here)

    def _open(self, parent: int, name: str) -> int:
        """A folder in a folder. Raises AgentError FILE_CONFLICT where that is a link, a file or another file system."""
        try:
            inner = os.open(name, entries.FOLDER, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise AgentError(Code.FILE_CONFLICT, f"{name!r}, below {self.ground}, is no folder there") from error
        if os.fstat(inner).st_dev != os.stat(self.ground).st_dev:
            os.close(inner)
            raise AgentError(Code.FILE_CONFLICT, f"{name!r}, below {self.ground}, is another file system there")
        return inner

    def _full(self, path: str) -> str:
        return baggage.shown(f"{self.ground.rstrip('/')}/{path}")
