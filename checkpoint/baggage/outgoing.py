"""The workload's files at its source: looked at, packed, looked at again inside the freeze."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from checkpoint.api import Packed
from checkpoint.baggage import archive, scan
from checkpoint.core import baggage
from checkpoint.core.baggage import ROOT, Entry, Listing
from checkpoint.core.errors import AgentError, Code
from checkpoint.processes import procfs

LIST = "files.json"
"""The file among the images that says what travels; `archive_name` is the one with the content of a ground."""


def archive_name(place: int) -> str:
    return f"files-{place}.tar"


def is_baggage(name: str) -> bool:
    """Whether a file among the images is one of these."""
    return name == LIST or (name.startswith("files-") and name.endswith(".tar"))


class Outgoing:
    """One migration's."""

    def __init__(self, folder: Path, layer: Path | None, named: Iterable[str], arrived: Iterable[Listing]) -> None:
        """`folder` is where archives are made: the images' file system; `layer` the pod's own, `named` folders besides
        it. `arrived` is what had come with the workload. Nothing is made here: `first` or `second` does."""
        self.folder = folder
        self._grounds = grounds(layer, named)
        self._arrived = {one.ground: one.entries for one in arrived}
        self._sent: list[list[Entry]] = [[] for _ in self._grounds]
        self._written: set[str] = set()
        """What the workload writes without telling: a page that is mapped and written to changes the file's times once,
        and not again before it is written back (K: memory.c, fault_dirty_shared_page)."""
        self._brake = archive.Brake()

    def __bool__(self) -> bool:
        """Whether anything could travel at all."""
        return bool(self._grounds)

    def look(self) -> list[Listing]:
        """What travels, as it is now. Blocks."""
        found = [scan.look(ground, source, identity(source)) for ground, source in self._grounds]
        found = [baggage.with_deletions(one, self._arrived.get(one.ground, [])) for one in found]
        others = [ground for ground, _ in self._grounds if ground != ROOT]
        return [baggage.without(one, others) if one.ground == ROOT else one for one in found]

    def first(self, pids: Iterable[int]) -> Packed:
        """Everything, while the workload, these processes, runs. Blocks. Raises AgentError."""
        self._make()
        listings = self.look()
        self._written = _written(pids)  # only now: what is mapped later has other times when it is written to
        self._pack(listings, loosely=True)
        digest = digest_of(self.folder, len(listings))
        self._sent = [one.entries for one in listings]
        return Packed(str(self.folder), digest, sum(one.files for one in listings), _size(listings))

    def second(self, pids: Iterable[int]) -> None:
        """What has changed since, while the workload stands still. Blocks. Raises AgentError."""
        if not self:
            return
        self._make()
        self._written |= _written(pids)
        self._pack(self.look(), loosely=False)

    def _make(self) -> None:
        self.close()
        self.folder.mkdir(mode=0o700)

    def _pack(self, listings: list[Listing], *, loosely: bool) -> None:
        for place, (listing, sent) in enumerate(zip(listings, self._sent, strict=True)):
            top = listing.ground.rstrip("/")
            known = [one for one in sent if f"{top}/{one.path}" not in self._written]
            wanted = baggage.changed(known, listing.entries)
            target = self.folder / archive_name(place)
            archive.pack(self._grounds[place][1], wanted, target, loosely=loosely, brake=self._brake)
        (self.folder / LIST).write_bytes(baggage.encode(listings))

    def break_off(self, why: AgentError) -> None:
        """Nothing will be packed any more: whoever waits for it is told that."""
        self._brake.pull(why)

    def hand_over(self, images: Path) -> None:
        """Put what `second` has made among the images."""
        for path in self.folder.iterdir() if self else ():
            path.rename(images / path.name)
        self.close()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _written(pids: Iterable[int]) -> set[str]:
    """The files that these processes have mapped to write to."""
    return {area.path for pid in pids for area in procfs.file_areas(pid) if area.written}


def grounds(layer: Path | None, named: Iterable[str]) -> list[tuple[str, Path]]:
    """The grounds and where they are read. A named folder on the pod's own root travels with it, and is none.

    Raises AgentError NO_FOLDER.
    """
    found = [] if layer is None else [(ROOT, layer)]
    root = os.stat(ROOT).st_dev
    for path in outermost(named):
        if os.path.realpath(path) != path or not os.path.isdir(path):
            raise AgentError(Code.NO_FOLDER, f"there is no folder {path!r} in the pod")
        if layer is None or os.stat(path).st_dev != root:
            found.append((path, Path(path)))
    return found


def outermost(paths: Iterable[str]) -> list[str]:
    """The paths without those inside another one."""
    found: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(f"{outer}/") for outer in found):
            found.append(path)
    return found


def digest_of(folder: Path, count: int) -> str:
    """SHA-256 of what `Outgoing.first` has made of `count` grounds."""
    found = hashlib.sha256()
    for name in (LIST, *map(archive_name, range(count))):
        with (folder / name).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _size(listings: list[Listing]) -> int:
    return sum(one.size_bytes for one in listings)


def identity(path: Path) -> str:
    """Which folder it is, on this machine as long as it runs."""
    found = path.stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{found.st_dev}:{found.st_ino}"
