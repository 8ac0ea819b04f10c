"""The types of options: durations, sizes, ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click

from controller.core.choose import Wanted
from controller.core.transfer import WantedTransfer
from controller.core.units import parse_bytes, parse_rate, parse_seconds

_DAY = 86_400.0
_EXBIBYTE = float(1 << 60)


class Quantity(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """An option like 10s or 64MiB."""

    def __init__(self, name: str, parse: Callable[[str], float], most: float, most_text: str) -> None:
        self.name, self._parse, self._most, self._most_text = name, parse, most, most_text

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return value
        try:
            found = self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if found > self._most:
            self.fail(f"{value!r} is more than {self._most_text}", param, ctx)
        return found


DURATION = Quantity("duration", parse_seconds, 36_500 * _DAY, "100 years")
HOLD = Quantity("duration", parse_seconds, _DAY, "a day")
"""The proxies keep what peers send for no longer (`proxy.api.Seconds`)."""
SIZE = Quantity("size", parse_bytes, _EXBIBYTE, "an exbibyte")
RATE = Quantity("rate", parse_rate, _EXBIBYTE, "an exbibyte")
MEMORY_WAY = click.Choice(get_args(Wanted))
TRANSFER_WAY = click.Choice(get_args(WantedTransfer))
