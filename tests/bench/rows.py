"""One line of the claims."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One claim. Every cell but the verdict is text for a person."""

    what: str
    measured: str
    target: str
    met: bool | None
    """None where nothing is claimed."""
    floor: str
    """What the machine or CRIU takes anyway, measured in the same run."""
    method: str

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**not met**", None: ""}[self.met]
