"""Durations and sizes as people write and read them."""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_LONG = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))

LEAST_RATE = 4096
"""Bytes a second. Whoever says less means something else."""


def parse_seconds(text: str) -> float:
    """`10s`, `250ms`, `2m`, `7d` -> seconds. Raises ValueError with a sentence for a person."""
    return _parse(text, _SECONDS, "a duration like 10s, 250ms or 2m")


def parse_bytes(text: str) -> int:
    """`64MiB`, `1GB`, `4096` -> bytes. Raises ValueError with a sentence for a person."""
    return int(_parse(text, {unit: float(size) for unit, size in _BYTES.items()}, "a size like 64MiB or 1GB"))


def parse_rate(text: str) -> int:
    """`100MiB` -> bytes a second. Raises ValueError with a sentence for a person."""
    rate = parse_bytes(text)
    if rate < LEAST_RATE:
        raise ValueError(
            f"{text!r} is {byte_text(rate)} a second, not even a page of memory: is a unit missing, as in 100MiB?"
        )
    return rate


def _parse(text: str, units: dict[str, float], example: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in units or not float(match[1]):
        raise ValueError(f"{text!r} is not {example}")
    return float(match[1]) * units[match[2].lower()]


def duration_text(seconds: float) -> str:
    """Three significant digits at most, in the unit a person would choose."""
    for size, unit in _LONG:
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def byte_text(count: float) -> str:
    """A size, in the largest unit that leaves a whole number before the point."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
