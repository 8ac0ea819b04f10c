"""How a move's images are to get from one agent to the other. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

WantedTransfer = Literal["auto", "shared", "direct", "store"]
"""What a person may ask for; auto: shared where both agents see one folder, else direct."""

STREAMS = 2
"""Connections at once, unless told otherwise: one core seals and sends a gigabyte a second, and a network that carries
more has machines with more cores at its ends."""


class Transfer(msgspec.Struct, frozen=True):
    """What was asked for."""

    way: WantedTransfer = "auto"
    streams: int = STREAMS
    bytes_per_second: float = 0.0
    """0: as fast as it goes."""
