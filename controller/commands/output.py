"""How a command says what came of it: for a person, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click
import msgspec

from checkpoint.api import Problem

T = TypeVar("T")


def say(value: T, as_json: bool, show: Callable[[T], None]) -> None:
    """Prints a value as JSON, or has it shown."""
    if as_json:
        say_json(value)
    else:
        show(value)


def warn(problem: Problem) -> None:
    """A line for a person: what does not stand in the way, and may still go wrong."""
    click.echo(f"midstream: {problem.message}; {problem.hint}", err=True)


def say_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
