"""How a command ends that is interrupted from the keyboard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.cli import interrupt
from controller.cli.main import main
from controller.commands import status

ROOT = Path(__file__).parents[4]


@pytest.fixture
def kept() -> Iterator[None]:
    """What an interrupt does is as it was, afterwards."""
    known = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, known)


@pytest.mark.usefixtures("kept")
def test_a_command_that_has_begun_raises_it_and_one_in_the_background_ignores_it() -> None:
    for at_first, at_once in ((signal.default_int_handler, signal.SIG_DFL), (signal.SIG_IGN, signal.SIG_IGN)):
        signal.signal(signal.SIGINT, at_first)
        interrupt.ends_at_once()
        assert signal.getsignal(signal.SIGINT) is at_once
        interrupt.is_raised()
        assert signal.getsignal(signal.SIGINT) is at_first


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
