"""The journal: where each migration stands, written down before it goes on.

One file a migration, `<home>/migrations/<id>.jsonl`: a line for each phase entered, and at the end the result. The
file is locked (flock) for as long as a controller drives the migration; an unlocked journal without a final phase is
an interrupted one, and whoever takes the lock may go on with it.

Nothing is synced to disk: the pods do not outlive the machine, so the journal has to outlive only the controller, and a
write(2) does. An fsync would cost milliseconds inside the freeze.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from checkpoint.api import Files
from controller.core.choose import Wanted
from controller.core.errors import Refused
from controller.core.phases import FINAL, Phase
from controller.core.result import MigrationResult
from controller.core.transfer import Transfer

KEPT = 500
"""Of the journals of moves that are over; the oldest others are deleted when a move begins."""


class Intent(msgspec.Struct, frozen=True):
    """What was asked for: everything a later controller needs to go on."""

    migration: str
    workload: str
    source: str
    destination: str
    max_hold_seconds: float
    max_held_bytes: int
    allow_loss: bool = False
    memory: Wanted = "stop-and-copy"
    transfer: Transfer = Transfer()
    files: Files = Files()


class Entry(msgspec.Struct, frozen=True):
    """One line. `at` is seconds since the epoch, `monotonic` seconds of CLOCK_MONOTONIC."""

    at: float
    monotonic: float
    phase: Phase
    intent: Intent | None = None
    reason: str = ""
    controller: int = 0
    """The process id of the controller that wrote it."""
    result: MigrationResult | None = None


class Record(msgspec.Struct, frozen=True):
    """A migration as its journal tells it."""

    intent: Intent
    entries: list[Entry]
    driven: bool
    """A living controller holds the lock."""

    @property
    def phase(self) -> Phase:
        return self.entries[-1].phase

    @property
    def final(self) -> bool:
        return self.phase in FINAL

    @property
    def interrupted(self) -> bool:
        return not self.final and not self.driven

    @property
    def reason(self) -> str:
        """Why it has not gone on, or not through; of one that has, what there is to say of it."""
        telling = self.entries[-1:] if self.phase is Phase.SUCCEEDED else self.entries[::-1]
        return next((entry.reason for entry in telling if entry.reason), "")


class Journal:
    """The open, locked journal of one migration: the right to drive it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self.path = descriptor, path

    @classmethod
    def begin(cls, folder: Path, intent: Intent) -> Journal:
        """Creates the journal of a new migration and takes its lock."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _forget_oldest(folder)
        journal = cls._locked(folder / f"{intent.migration}.jsonl", os.O_CREAT | os.O_EXCL)
        try:
            journal.write(Phase.PENDING, intent=intent)
        except BaseException:
            journal.path.unlink()
            journal.close()
            raise
        return journal

    @classmethod
    def take_over(cls, folder: Path, migration: str) -> tuple[Journal, Record]:
        """Takes the lock of an interrupted migration.

        Raises:
            Refused: there is no such migration, or a living controller drives it.
        """
        path = folder / f"{migration}.jsonl"
        if not path.is_file():
            raise unknown_migration(migration)
        journal = cls._locked(path, 0)
        return journal, read(path)

    @classmethod
    def _locked(cls, path: Path, flags: int) -> Journal:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            message = f"migration {path.stem} is being driven by another controller"
            raise Refused("driven", message, "request", f"see: midstream status {path.stem}") from None
        return cls(descriptor, path)

    def write(
        self, phase: Phase, *, intent: Intent | None = None, reason: str = "", result: MigrationResult | None = None
    ) -> None:
        """One line more, whole or not at all. Raises OSError, where there is no room for it."""
        entry = Entry(time.time(), time.monotonic(), phase, intent, reason, os.getpid(), result)
        line = msgspec.json.encode(entry) + b"\n"
        before = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, line) < len(line):
                os.ftruncate(self._descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            error.filename = str(self.path)
            raise

    def close(self) -> None:
        os.close(self._descriptor)


def read(path: Path) -> Record:
    """A migration's record. A last line that a crash cut short is left out."""
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        entries = [msgspec.json.decode(line, type=Entry) for line in lines]
    except msgspec.DecodeError:
        entries = []
    if not entries or entries[0].intent is None:
        raise Refused("journal-damaged", f"{path} is not a migration's journal", "machine", "delete the file")
    return Record(entries[0].intent, entries, _is_driven(path))


def read_all(folder: Path) -> tuple[list[Record], list[Refused]]:
    """Every migration's record, oldest first, and what is to be said of those that cannot be read. One that has just
    been begun, and has no line yet, is left out."""
    records: list[Record] = []
    damaged: list[Refused] = []
    paths = [path for path in folder.iterdir() if path.suffix == ".jsonl"] if folder.is_dir() else []
    for path in sorted(path for path in paths if path.stat().st_size):
        try:
            records.append(read(path))
        except Refused as error:
            damaged.append(error)
    return sorted(records, key=lambda record: record.entries[0].at), damaged


def _forget_oldest(folder: Path) -> None:
    """Only those beyond are read. One that is not over stays, as does one that cannot be read, which somebody is to be
    told of."""
    for path in sorted(folder.glob("*.jsonl"), key=_written_at, reverse=True)[KEPT:]:
        with suppress(FileNotFoundError, Refused):  # another controller was faster, or it is damaged
            if (found := read(path)).final and not found.driven:
                path.unlink()


def _written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def unknown_migration(migration: str) -> Refused:
    return Refused("unknown-migration", f"there is no migration {migration!r}", "request", "see: midstream status")


def _is_driven(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
