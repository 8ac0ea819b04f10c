"""Where moves stand, as their journals say: no sidecar is asked."""

from __future__ import annotations

from pathlib import Path

from controller import journal
from controller.commands.output import say
from controller.core.errors import Refused
from controller.journal import Record
from controller.views.tables import show_records


def migrations_folder(home: Path) -> Path:
    return home / "migrations"


def show_status(home: Path, migration: str | None, as_json: bool) -> None:
    """Raises Refused where a journal cannot be read; what is known of the other migrations is shown before."""
    damaged: list[Refused] = []
    if migration is None:
        records, damaged = journal.read_all(migrations_folder(home))
    else:
        records = [record_of(home, migration)]
    if records or not damaged:
        say(records, as_json, lambda found: show_records(found, detailed=migration is not None))
    for error in damaged:
        raise error


def record_of(home: Path, migration: str) -> Record:
    """Raises Refused where there is no such migration, or its journal cannot be read."""
    path = migrations_folder(home) / f"{migration}.jsonl"
    if not path.is_file():
        raise journal.unknown_migration(migration)
    return journal.read(path)
