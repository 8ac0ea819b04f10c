"""What the commands about images print for a person."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

import checkpoint.api as agent_api
from controller.core.units import byte_text, duration_text
from controller.views.tables import WIDE_CELLS

_STATES = {"ready": "green", "incomplete": "yellow", "unreadable": "red"}


def show_stored(stored: agent_api.StoredCheckpoint, console: Console | None = None) -> None:
    """`midstream checkpoint`."""
    console = console or Console()
    squeezed = stored.compression
    rate = stored.image_bytes / stored.upload_seconds if stored.upload_seconds else 0.0
    lines = [
        f"Stored {stored.workload} as {stored.image}; it runs on",
        f"  frozen: {duration_text(stored.freeze_seconds)}",
        f"  stored: {byte_text(stored.image_bytes)} as {byte_text(stored.stored_bytes)} in "
        f"{duration_text(stored.upload_seconds)}, {byte_text(int(rate))}/s, sealed with key {stored.key}",
        f"  compression: {squeezed.mode}, {squeezed.compressed_chunks} of "
        f"{squeezed.compressed_chunks + squeezed.plain_chunks} chunks",
        f"  connections: {stored.connections} in the image; a copy finds them closed",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def show_cloned(rows: Sequence[tuple[str, str, agent_api.Cloned]], console: Console | None = None) -> None:
    """`midstream restore`."""
    console = console or Console()
    for pod, address, one in rows:
        text = (
            f"{one.workload}: process {one.pid} in pod {pod}, {address}; fetched {byte_text(one.image_bytes)} in "
            f"{duration_text(one.download_seconds)}, running {duration_text(one.restore_seconds)} later; "
            f"{one.closed_connections} inherited connections closed"
        )
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def show_images(found: Sequence[agent_api.StoredImage], console: Console | None = None) -> None:
    """`midstream images list`."""
    console = console or Console()
    if not found:
        console.print("There are no images. Make one: midstream checkpoint WORKLOAD", highlight=False)
        return
    table = Table(
        *("image", "state", "workload", "made", "expires", "memory", "stored", "key"), box=None, pad_edge=False
    )
    for one in found:
        state = Text(one.state + (", in use" if one.in_use else ""), _STATES[one.state])
        table.add_row(
            one.image, state, one.workload or "-", _moment(one.created_seconds), _moment(one.expires_seconds),
            byte_text(one.image_bytes), byte_text(one.stored_bytes), one.key or "-",
        )  # fmt: skip
    console.width = max(console.width, WIDE_CELLS)
    console.print(table)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds)) if seconds else "-"
