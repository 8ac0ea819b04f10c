"""How a command ends that is interrupted from the keyboard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def interrupted_at_the_import_of(module: str, folder: Path, at_first: Any) -> subprocess.CompletedProcess[bytes]:
    """A command whose `module` sends the interrupt and has nothing in it; `at_first`: what one does to who starts it.

    That has to be said: a test run in the background of a script ignores interrupts, and so do its children.
    """
    (folder / f"{module}.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    signal.signal(signal.SIGINT, at_first)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    argv = [sys.executable, "-m", "controller.cli", "status"]
    return subprocess.run(argv, capture_output=True, check=False, cwd="/", env=environment)


# click is imported among the first, rich among the last
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("module", ["click", "rich"])
def test_an_interrupt_while_something_is_imported_ends_it_in_silence(tmp_path: Path, module: str) -> None:
    done = interrupted_at_the_import_of(module, tmp_path, signal.default_int_handler)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.usefixtures("kept")
def test_an_interrupt_in_the_background_leaves_what_is_imported_alone(tmp_path: Path) -> None:
    done = interrupted_at_the_import_of("click", tmp_path, signal.SIG_IGN)
    assert done.returncode == 1
    assert done.stderr.endswith(b"module 'click' has no attribute 'ParamType'\n")  # as far as the stand-in goes


def test_an_interrupt_by_hand_ends_a_command_as_a_shell_expects_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "show_status", interrupted)
    done = CliRunner().invoke(main, ["status"])
    assert (done.exit_code, done.output) == (130, "")
