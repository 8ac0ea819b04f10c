"""The machine: what speaks for and against it."""

from __future__ import annotations

from controller.check import run_checks
from controller.commands.output import say
from controller.core.check import can_move
from controller.core.errors import EXIT_REFUSED
from controller.views.tables import show_checks


def check_machine(as_json: bool) -> int:
    """Prints what speaks for and against this machine; the exit status."""
    results = run_checks()
    say(results, as_json, show_checks)
    return 0 if can_move(results) else EXIT_REFUSED
