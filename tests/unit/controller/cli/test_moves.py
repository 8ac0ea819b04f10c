"""What `midstream migrate` takes, before it looks at any pod."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from controller.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--transfer-rate", "100"], "'100' is 100 B a second, not even a page of memory"),
        (["--transfer", "shared", "--transfer-rate", "1MiB"], "shared has no limit"),
        (["--transfer", "store", "--transfer-rate", "1MiB"], "store has no limit"),
        (["--max-hold", "10 parsecs"], "'10 parsecs' is not a duration"),
        (["--max-held-bytes", "-1"], "'-1' is not a size"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["--home", str(tmp_path), "migrate", "redis", "--to", "b", *arguments])
    assert done.exit_code == click.UsageError.exit_code
    assert words in done.output
