"""What a person sees, and when: nothing inside the freeze; a line an event without a terminal; the cursor back."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from controller.core.result import ByteCounts, FlowCounts, MigrationResult, PhaseTime
from controller.demo.report import Tick
from controller.views.progress import PLAIN_LOAD_SECONDS, Display

BEFORE = ("Pending", "Preflight", "Preparing")
FROZEN = ("Stopping", "Checkpointing", "Adopting", "Transferring", "Restoring", "Committing", "Repointing")
RESULT = MigrationResult(
    migration="redis-1",
    outcome="succeeded",
    phases=[PhaseTime("Stopping", 0.002)],
    freeze_seconds=0.1,
    flows=FlowCounts(3, 0, 0),
    bytes=ByteCounts(2048, 0),
)
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Screen(Display):
    """A display whose output can be read."""

    def __init__(self, *, terminal: bool, width: int = 110) -> None:
        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=terminal, width=width, color_system=None, highlight=False)
        super().__init__(console=console)

    @property
    def shown(self) -> str:
        return self.file.getvalue()

    def forget(self) -> None:
        self.file.seek(0)
        self.file.truncate()

    def go(self, *phases: str) -> None:
        for phase in phases:
            self.phase_started(phase, 0.0)
            self.phase_ended(phase, 0.0123)


def tick(at: float, requests: int = 0, wrong: int = 0, lost: int = 0, failed: int = 0) -> Tick:
    return Tick(at, requests, wrong, 64 - lost, lost, 0.0004, 500, failed, 0)


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_drawn_from_stopping_to_repointing(terminal: bool) -> None:
    with Screen(terminal=terminal) as screen:
        screen.go(*BEFORE)
        assert "Preparing" in screen.shown
        screen.forget()
        for number, phase in enumerate(FROZEN):
            screen.go(phase)
            screen.held(3, number)
            screen.load(tick(100.0 * number, wrong=1))
            screen.note("something happened")
            assert screen.shown == ""
        screen.phase_started("Draining", 0.0)
        for phase in FROZEN:
            assert phase in screen.shown


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_drawn_while_it_is_taken_back(terminal: bool) -> None:
    with Screen(terminal=terminal) as screen:
        screen.go(*BEFORE)
        screen.forget()
        screen.go(*FROZEN[:5], "RollingBack")
        assert screen.shown == ""
        screen.phase_started("RolledBack", 0.0)
        screen.finish(RESULT)
        assert "RollingBack" in screen.shown


def test_the_phase_that_failed_is_marked() -> None:
    with Screen(terminal=True) as screen:
        screen.go("Preflight", "Stopping", "Restoring", "RollingBack")
        screen.phase_started("RolledBack", 0.0)
        screen.finish(RESULT)
    lines = screen.shown.splitlines()
    assert any("✗  Restoring" in line for line in lines)
    assert any("✓  Stopping" in line for line in lines)


def test_a_lone_frozen_phase_has_a_bracket_of_its_own() -> None:
    with Screen(terminal=True) as screen:
        screen.go("Preflight", "Stopping")
        screen.phase_started("Failed", 0.0)
        screen.finish(RESULT)
    assert "╶ frozen" in screen.shown


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_sent_before_the_freeze_is_said_while_it_is(terminal: bool) -> None:
    with Screen(terminal=terminal) as screen:
        screen.go("Preflight")
        screen.phase_started("Preparing", 0.0)
        screen.early(70 << 20, False)
        screen.early(90 << 20, True)
        screen.phase_ended("Preparing", 0.5)
    assert "90.0 MiB sent before the freeze" in screen.shown


def test_on_a_terminal_it_draws_in_place_and_gives_the_cursor_back() -> None:
    with Screen(terminal=True) as screen:
        screen.note("three pods are up")
        screen.round(2, 70 << 20, 0.24)
        screen.go(*BEFORE, *FROZEN)
        screen.phase_started("Draining", 0.0)
        screen.held(3, 1 << 20)
        screen.load(tick(1.0, 100))
        screen.load(tick(2.0, 50100))
        screen.phase_ended("Draining", 0.5)
        screen.phase_started("Succeeded", 0.0)
        screen.finish(RESULT)
    for words in (
        "✓ three pods",
        "✓ round 2: 70.0 MiB in 240 ms",
        "50,000 replies/s",
        "0 wrong",
        "64 open",
        "3 connections, 1.0 MiB",
        "Moved, and nothing",
    ):
        assert words in screen.shown
    assert screen.shown.rfind(SHOW_CURSOR) > screen.shown.rfind(HIDE_CURSOR) >= 0
    assert "Pending" not in screen.shown


def test_an_error_gives_the_cursor_back_too() -> None:
    screen = Screen(terminal=True)

    def interrupted() -> None:
        with screen:
            screen.go("Preflight")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.shown.rfind(SHOW_CURSOR) > screen.shown.rfind(HIDE_CURSOR) >= 0


def test_it_does_not_draw_more_often_than_the_eye_sees() -> None:
    with Screen(terminal=True) as screen:
        screen.go("Preflight")
        screen.forget()
        for number in range(1000):
            screen.load(tick(1.0 + number / 1000, number))
        assert screen.shown.count("replies/s") < 50


def test_what_is_wrong_is_said() -> None:
    with Screen(terminal=False) as screen:
        screen.load(tick(1.0, 10, wrong=2, lost=1, failed=3))
    for words in ("63 open", "1 lost", "2 wrong", "3 turned away"):
        assert words in screen.shown


def test_without_a_terminal_each_event_is_a_line() -> None:
    with Screen(terminal=False) as screen:
        screen.note("three pods are up")
        screen.go("Preflight")
        screen.load(tick(1.0))
        screen.load(tick(1.1))
        screen.load(tick(1.0 + PLAIN_LOAD_SECONDS))
        screen.held(3, 0)
        screen.held(3, 0)
        screen.finish(RESULT)
    lines = screen.shown.splitlines()
    assert lines[:2] == ["three pods are up", "Preflight         12 ms"]
    assert sum(line.startswith("load:") for line in lines) == 2
    assert lines[4] == "held: 3 connections"
    assert lines[5] == "Moved, and nothing was lost (redis-1: succeeded)"
    assert "\x1b" not in screen.shown


def test_quiet_keeps_standard_output_clean(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True) as display:
        display.phase_started("Preflight", 0.0)
        display.phase_ended("Preflight", 0.01)
        display.finish(RESULT)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Preflight" in captured.err
    assert "nothing was lost" in captured.err


def test_an_end_of_what_was_not_begun_is_ignored() -> None:
    with Screen(terminal=False) as screen:
        screen.phase_ended("Preflight", 0.1)
    assert screen.shown == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_move_waits_for_is_said_once(terminal: bool) -> None:
    with Screen(terminal=terminal) as screen:
        screen.phase_started("Preflight", 0.0)
        screen.waiting("waits: 2 flows are read slowly")
        screen.waiting("waits: 1 flow is read slowly")
        assert "waits: 2 flows" in screen.shown
        assert "waits: 1 flow" not in screen.shown
