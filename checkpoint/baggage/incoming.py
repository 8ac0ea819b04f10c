"""The workload's files at its destination: unpacked beside, put in their place, and kept or taken back."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from checkpoint.baggage import archive
from checkpoint.baggage.outgoing import LIST, archive_name, digest_of, identity
from checkpoint.baggage.placing import Placing, Step, TakenUp
from checkpoint.core import baggage
from checkpoint.core.baggage import ROOT, Entry, Listing
from checkpoint.core.errors import AgentError, Code

_CAME = "came-"
_PLACED = "placed-"


class Placed(msgspec.Struct, frozen=True):
    ground: str
    steps: list[Step]


class Record(msgspec.Struct, frozen=True):
    """What has been, or was about to be, put in its place; on disk before the first step."""

    workload: str
    placed: list[Placed]
    listings: list[Listing]


class Incoming:
    """One migration's. What it does it can take back until `keep`, also as another agent's object of the same name."""

    def __init__(
        self, folder: Path, layer: Path | None, migration: str, workload: str, *, replace_newer: bool, root: str = ROOT
    ) -> None:
        """`folder` is the agent's own, where the record is kept; `layer` the pod's own, if it has one. `root` is where
        the pod's root is seen."""
        self._root = root
        self._folder, self._layer, self._migration, self._workload = folder, layer, migration, workload
        self._replace_newer = replace_newer
        self._record = folder / f"{_PLACED}{migration}.json"
        self._taken_up_file = folder / "taken-up.json"
        self._taken_up: TakenUp = {}
        self._staged: dict[str, dict[str, Entry]] = {}
        """What was unpacked first, ground by ground."""

    def stage(self, source: Path, digest: str) -> None:
        """Unpack what the source packed before the freeze, and see whether it may be put in its place. Blocks.

        Raises AgentError IMAGE_DAMAGED, FILE_CONFLICT, NO_ROOT or NO_SPACE.
        """
        self._load()
        listings = read_list(source / LIST)
        if digest_of(source, len(listings)) != digest:
            raise AgentError(Code.IMAGE_DAMAGED, "the workload's files are not those that were packed")
        for place, listing in enumerate(listings):
            if self._travels(listing):
                placing = self._begin(listing)
                archive.unpack(source / archive_name(place), Path(placing.new))
                self._staged[listing.ground] = {one.path: one for one in listing.entries}
                # What changed while it was packed is packed again; this is only to see what stands in the way.
                self._warm(placing, placing.plan(listing, replace_newer=self._replace_newer))

    def place(self, images: Path) -> int:
        """Unpack the rest and put all of it in its place; gives how many files. Blocks.

        Raises AgentError; then what was done is to be taken back by `undo`.
        """
        if not (images / LIST).exists():
            return 0
        self._load()
        listings = read_list(images / LIST)
        todo: list[tuple[str, Placing, list[Step]]] = []
        for place, listing in enumerate(listings):
            if self._travels(listing):
                placing = self._begin(listing) if listing.ground not in self._staged else self._placing(listing.ground)
                wanted = {one.path: one for one in listing.entries}
                placing.thin(wanted, self._staged[listing.ground])
                archive.unpack(images / archive_name(place), Path(placing.new))
                archive.compare(Path(placing.new), wanted)
                todo.append((listing.ground, placing, placing.plan(listing, replace_newer=self._replace_newer)))
        self._write([Placed(ground, steps) for ground, _, steps in todo], listings)
        for _, placing, steps in todo:
            self._warm(placing, steps)
            placing.do(steps)
        return sum(one.files for one in listings)

    def _load(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._taken_up |= msgspec.convert(json.loads(self._taken_up_file.read_bytes()), TakenUp)

    def _warm(self, placing: Placing, steps: list[Step]) -> None:
        before = len(self._taken_up)
        placing.warm(steps)
        if len(self._taken_up) > before:
            _write(self._taken_up_file, self._taken_up)

    def _begin(self, listing: Listing) -> Placing:
        placing = self._placing(listing.ground)
        self._staged[listing.ground] = {}
        self._write([Placed(ground, []) for ground in sorted(self._staged)], [])
        placing.begin()
        return placing

    def _travels(self, listing: Listing) -> bool:
        """False for an empty list, and for a folder that is the very one that the source has."""
        if listing.ground == ROOT:
            if listing.entries and self._layer is None:
                raise AgentError(Code.NO_ROOT, f"the workload brings {listing.files} files of its pod's own root")
            return bool(listing.entries)
        if os.path.realpath(listing.ground) != listing.ground or not Path(listing.ground).is_dir():
            raise AgentError(Code.NO_FOLDER, f"there is no folder {listing.ground!r} in the pod")
        return bool(listing.entries) and identity(Path(listing.ground)) != listing.identity

    def _placing(self, ground: str) -> Placing:
        staging = f"{baggage.STAGING}{self._migration}"
        if ground == ROOT:
            return Placing(self._root, staging, self._layer, self._taken_up)
        return Placing(ground, staging, None, {})

    def keep(self) -> None:
        """The workload runs: what it brought stays, and what it replaced is gone. Blocks. Can be said twice."""
        record = self._read()
        if record is not None:
            for one in record.placed:  # first: it may be what fills the disk
                self._placing(one.ground).end()
            _write(came_file(self._folder, self._workload), {"migration": self._migration, "listings": record.listings})
            self._record.unlink(missing_ok=True)

    def undo(self) -> None:
        """Put everything back as it was. Blocks. Can be said twice, and by an agent that finds only the record."""
        record = self._read()
        if record is not None:
            for one in reversed(record.placed):
                self._placing(one.ground).undo(one.steps)
            self._record.unlink(missing_ok=True)

    def _write(self, placed: list[Placed], listings: list[Listing]) -> None:
        _write(self._record, Record(self._workload, placed, listings))

    def _read(self) -> Record | None:
        try:
            return msgspec.convert(json.loads(self._record.read_bytes()), Record)
        except FileNotFoundError:
            return None


def came_file(folder: Path, workload: str) -> Path:
    return folder / f"{_CAME}{workload}.json"


def came(folder: Path, workload: str, migration: str) -> list[Listing]:
    """What came with the workload, if it was this migration that brought it."""
    try:
        found = json.loads(came_file(folder, workload).read_bytes())
    except FileNotFoundError:
        return []
    return msgspec.convert(found["listings"], list[Listing]) if found["migration"] == migration else []


def read_list(path: Path) -> list[Listing]:
    """Raises AgentError IMAGE_DAMAGED."""
    if path.stat().st_size > baggage.MAX_LIST_BYTES:
        raise AgentError(Code.IMAGE_DAMAGED, "the list of the workload's files is too long")
    return baggage.decode(path.read_bytes())


def _write(path: Path, value: Any) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(json.dumps(msgspec.to_builtins(value)).encode())
    fresh.rename(path)
