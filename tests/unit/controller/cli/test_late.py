"""What is imported late: a command, and its help before all, waits for no more than it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"aiohttp", "asyncio", "cryptography", "pyroute2", "rich"}
REPORT = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
MAIN = "sys.argv[0] = 'midstream'; from controller.cli.__main__ import main; main()"


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["migrate", "--help"], set()),
        (["status"], {"rich"}),
        (["pod", "list", "-o", "json"], {"asyncio"}),
        (["pod", "create", "a", "a"], {"asyncio"}),
    ],
)
def test_a_command_imports_only_what_it_needs(tmp_path: Path, arguments: list[str], needed: set[str]) -> None:
    argv = [sys.executable, "-c", REPORT + MAIN, *arguments]
    environment = {"MIDSTREAM_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env=environment, cwd=Path(__file__).parents[4]
    )
    imported = set(done.stderr.splitlines()[-1].split())
    assert "click" in imported, done
    assert imported & HEAVY == needed
