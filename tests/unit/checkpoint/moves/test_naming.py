"""What a migration has on record of the names that it lends, on this process's own files."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from checkpoint.baggage import lent
from checkpoint.core.custody import State
from checkpoint.core.journal import MigrationRecord
from checkpoint.moves.naming import Naming


@pytest.fixture
def name(tmp_path):
    """Of a file that is open, and gone under it while it has another."""
    (tmp_path / "one").touch()
    (tmp_path / "other").hardlink_to(tmp_path / "one")
    with (tmp_path / "one").open():
        (tmp_path / "one").unlink()
        yield tmp_path / "one (deleted)"


def used(name):
    return [one for one in lent.deleted([os.getpid()]) if one.name == str(name)]


async def test_it_is_on_record_once_before_it_is_lent_and_no_more_when_it_is_back(name):
    saved = []
    record = MigrationRecord("m", "w", "source", State.PREPARED)
    naming = Naming(SimpleNamespace(save=lambda: saved.append((record.lent, name.exists()))), record)
    await naming.lend(used(name))
    await naming.lend(used(name))
    assert (saved, name.exists()) == ([([str(name)], False)], True)
    naming.take_back()
    assert (record.lent, name.exists()) == ([], False)


async def test_a_stored_copy_would_not_be_found_by_it(name):
    record = MigrationRecord("m", "w", "source", State.PREPARED, purpose="checkpoint")
    await Naming(SimpleNamespace(), record).lend(used(name))
    assert (record.lent, name.exists()) == ([], False)
