"""Durations and sizes as people write them."""

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


def parse_seconds(text: str) -> float:
    """`10s`, `250ms`, `2m`, `7d` -> seconds. Raises ValueError with a sentence for a person."""
    return _parse(text, _SECONDS, "a duration like 10s, 250ms or 2m")


def parse_bytes(text: str) -> int:
    """`64MiB`, `1GB`, `4096` -> bytes. Raises ValueError with a sentence for a person."""
    return int(_parse(text, {unit: float(size) for unit, size in _BYTES.items()}, "a size like 64MiB or 1GB"))


def _parse(text: str, units: dict[str, float], example: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in units or not float(match[1]):
        raise ValueError(f"{text!r} is not {example}")
    return float(match[1]) * units[match[2].lower()]
