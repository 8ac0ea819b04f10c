"""Where moves stand, by their journals."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.commands.status import migrations_folder, show_status
from controller.core.errors import Refused
from controller.journal import Intent, Journal


def test_a_migration_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no migration 'redis-1'"):
        show_status(tmp_path, "redis-1", as_json=True)


def test_a_journal_that_is_damaged_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Journal.begin(migrations_folder(tmp_path), Intent("redis-1", "redis", "a", "b", 10.0, 1 << 20))
    (log.path.parent / "damaged.jsonl").write_text("garbage\n")
    with pytest.raises(Refused, match=r"damaged.jsonl is not a migration's journal"):
        show_status(tmp_path, None, as_json=False)
    log.close()
    assert log.path.stem in capsys.readouterr().out
