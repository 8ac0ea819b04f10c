"""What the commands about images print."""

from __future__ import annotations

import io

from rich.console import Console

from checkpoint.api import Cloned, Compression, StoredCheckpoint, StoredImage
from controller.views.images import show_cloned, show_images, show_stored


def console() -> Console:
    return Console(file=io.StringIO(), width=60, color_system=None)


def said(made: Console) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


def test_a_checkpoint():
    made = console()
    squeezed = Compression("auto", 10 << 20, 6 << 20, 9, 1, 1e9, 1e8)
    show_stored(StoredCheckpoint("redis-1", "redis", "ab", 1, 7, 40, 10 << 20, 6 << 20, 0.039, 0.5, squeezed), made)
    text = said(made)
    for words in (
        "redis-1; it runs on",
        "frozen: 39 ms",
        "10.0 MiB as 6.0 MiB",
        "20.0 MiB/s",
        "9 of 10",
        "7 in the image",
    ):
        assert words in text


def test_copies():
    made = console()
    show_cloned([("b", "10.0.0.2", Cloned("copy", 7, 1, 3, 1 << 20, 0.1, 0.05))], made)
    assert "copy: process 7 in pod b, 10.0.0.2" in said(made)
    assert "3 inherited connections closed" in said(made)


def test_images_are_named_in_full_on_any_width():
    made = console()
    name = "redis-20260131T120000Z-1f2e3d4c"
    show_images(
        [StoredImage(name, "ready", "redis", 1.0, 0.0, True, 1, 1, "0123456789abcdef"), StoredImage("x", "incomplete")],
        made,
    )
    text = said(made)
    assert name in text
    assert "ready, in use" in text
    assert "0123456789abcdef" in text
    assert "1970-01-01" in text


def test_no_images():
    made = console()
    show_images([], made)
    assert "midstream checkpoint WORKLOAD" in said(made)
