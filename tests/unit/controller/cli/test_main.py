"""How a command ends that fails: one line, and no traceback. What its help says, and what it waits for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.cli.main import main
from controller.core.errors import EXIT_REFUSED
from tests.harness.leaks import fresh_home

ROOT = Path(__file__).parents[4]

HEAVY = {"aiohttp", "asyncio", "cryptography", "pyroute2", "rich"}
REPORT = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
MAIN = "sys.argv[0] = 'midstream'; from controller.cli.__main__ import main; main()"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status"], "garbage.jsonl is not a migration's journal [journal-damaged, fault: machine]; delete the file"),
        (["status", "garbage"], "garbage.jsonl is not a migration's journal"),
        (["status", ""], "there is no migration ''"),
        (["pod", "create", "x", "x"], "x: named twice [named-twice, fault: request]"),
        (["pod", "create", "x", "--memory", "1KiB"], "64 MiB of memory at least"),
        (["pod", "create", "x", "--image-space", "1"], "4 MiB at least"),
        (["pod", "delete", "x"], "`midstream pod list` shows the pods there are"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "garbage.jsonl").write_text("garbage\n")
    done = CliRunner().invoke(main, ["--home", str(tmp_path), *arguments])
    assert done.exit_code == EXIT_REFUSED
    assert words in done.output
    assert len(done.output.splitlines()) == 1


@pytest.fixture
def home() -> Iterator[Path]:
    """One that other users may look into; pytest's folders are root's alone."""
    made = fresh_home()
    (made / "migrations").mkdir(parents=True, mode=0o700)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("arguments", [["status"], ["status", "redis-1"], ["resume", "redis-1"]])
def test_what_only_root_may_read_is_not_called_empty(home: Path, arguments: list[str]) -> None:
    # What the commands import late comes first: the checkout may be closed to others.
    user = "import os, controller.commands.moves; from controller.cli.main import main;"
    user += "os.setgid(65534); os.setuid(65534); main(%r)"
    argv = [sys.executable, "-c", user % (["--home", str(home), *arguments],)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == EXIT_REFUSED, done
    assert done.stderr.endswith("Permission denied [not-permitted, fault: request]; run it as root\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("group", [[], ["pod"], ["images"]])
def test_what_a_command_does_is_said_whole(group: list[str]) -> None:
    summaries = CliRunner().invoke(main, [*group, "--help"]).output.partition("Commands:")[2].partition("\n\n")[0]
    assert summaries
    assert "..." not in summaries


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
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    imported = set(done.stderr.splitlines()[-1].split())
    assert "click" in imported, done
    assert imported & HEAVY == needed
