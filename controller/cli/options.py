"""The types of options: durations, sizes, ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click

from controller.core.predict import Wanted
from controller.core.transfer import WantedTransfer
from controller.core.units import parse_bytes, parse_rate, parse_seconds


class Quantity(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """An option like 10s or 64MiB."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return value
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Quantity("duration", parse_seconds)
SIZE = Quantity("size", parse_bytes)
RATE = Quantity("rate", parse_rate)
MEMORY_WAY = click.Choice(get_args(Wanted))
TRANSFER_WAY = click.Choice(get_args(WantedTransfer))
