"""How a command ends that fails, or that is interrupted: one line, and no traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.cli.main import main
from controller.commands import status
from controller.core.errors import EXIT_REFUSED
from tests.harness.leaks import fresh_home

ROOT = Path(__file__).parents[4]


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


@pytest.mark.parametrize("module", ["click", "rich"])
def test_an_interrupt_while_something_is_imported_ends_it_in_silence(tmp_path: Path, module: str) -> None:
    """At the import of click, among the first, or of rich, among the last: a module of that name sends it."""
    (tmp_path / f"{module}.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    argv = [sys.executable, "-m", "controller.cli", "status"]
    done = subprocess.run(argv, capture_output=True, check=False, cwd="/", env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_an_interrupt_by_hand_ends_a_command_as_a_shell_expects_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "show_status", interrupted)
    done = CliRunner().invoke(main, ["status"])
    assert (done.exit_code, done.output) == (130, "")


@pytest.mark.parametrize("group", [[], ["pod"], ["images"]])
def test_what_a_command_does_is_said_whole(group: list[str]) -> None:
    summaries = CliRunner().invoke(main, [*group, "--help"]).output.partition("Commands:")[2].partition("\n\n")[0]
    assert summaries
    assert "..." not in summaries
