"""Looking at what is in a ground (`checkpoint.core.baggage`). Blocks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from checkpoint.core.baggage import ROOT, Entry, Kind, Listing, is_ours

_OPAQUE = "trusted.overlay.opaque"
_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.FOLDER, stat.S_IFLNK: Kind.LINK, stat.S_IFIFO: Kind.FIFO}


def look(ground: str, source: Path, identity: str = "") -> Listing:
    """What is in `source`: the ground itself, or, of the root, the layer that is written above it.

    What comes and goes meanwhile may be in it or not. Raises OSError where `source` cannot be read.
    """
    entries: list[Entry] = []
    left: list[str] = []
    for path, found in _walk(str(source), "", os.stat(source).st_dev):
        kind = _kind(found)
        if kind is None:
            left.append(path)
        else:
            entries.append(
                entry(path, kind, found, whole=kind is Kind.FOLDER and ground == ROOT and _opaque(source, path))
            )
    return Listing(ground, entries, identity, left)


def entry(path: str, kind: Kind, found: os.stat_result, *, whole: bool = False) -> Entry:
    """What a list says of a path."""
    if kind is Kind.GONE:
        return Entry(path, kind)
    folder = kind is Kind.FOLDER
    return Entry(
        path, kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, 0 if folder else found.st_size,
        found.st_mtime_ns, found.st_ctime_ns, found.st_ino if found.st_nlink > 1 and not folder else 0, whole,
    )  # fmt: skip


def kind_of(found: os.stat_result) -> Kind | None:
    """None: a socket or a device."""
    return _KINDS.get(stat.S_IFMT(found.st_mode))


def _kind(found: os.stat_result) -> Kind | None:
    # A layer has a character device 0/0 where a file is deleted (K: overlayfs.rst, whiteouts); no driver has it.
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
        return Kind.GONE
    return kind_of(found)


def _walk(top: str, below: str, device: int) -> Iterator[tuple[str, os.stat_result]]:
    """Every path below `top` with its status, sorted, a folder before what is in it; no other file system's."""
    try:
        with os.scandir(f"{top}/{below}") as listing:
            names = sorted(found.name for found in listing)
    except (FileNotFoundError, NotADirectoryError):
        if not below:
            raise
        return
    for name in names:
        path = f"{below}/{name}" if below else name
        try:
            found = os.lstat(f"{top}/{path}")
        except FileNotFoundError:
            continue
        if is_ours(path) or found.st_dev != device:
            continue
        yield path, found
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(top, path, device)


def _opaque(source: Path, path: str) -> bool:
    try:
        return os.getxattr(source / path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
