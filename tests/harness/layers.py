"""Two pods' roots as they are made for real, overlays over the same folder, without the pods; and what is in them."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checkpoint.core.baggage import STAGING
from controller.lab.ownroot import OPTIONS

ACL_NAME, ACL_OF_FOLDERS = "system.posix_acl_access", "system.posix_acl_default"


def access_list(user: int) -> bytes:
    """An ACL in which this user may read, too (linux/posix_acl_xattr.h): its owner, the user, the group, the mask, all
    others."""
    nobody = 0xFFFFFFFF
    entries = ((1, 6, nobody), (2, 4, user), (4, 4, nobody), (16, 4, nobody), (32, 0, nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)


@dataclass(frozen=True)
class Layered:
    """One overlay: where it is seen, and its upper layer."""

    root: Path
    layer: Path


@contextlib.contextmanager
def layered(folder: Path, lower: Path) -> Iterator[Layered]:
    made = Layered(folder / "merged", folder / "upper")
    for path in (made.root, made.layer, folder / "work"):
        path.mkdir(parents=True)
    options = f"lowerdir={lower},upperdir={made.layer},workdir={folder}/work,{OPTIONS}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(made.root)], check=True)
    try:
        yield made
    finally:
        subprocess.run(["umount", str(made.root)], check=True)


def picture(top: Path) -> dict[str, object]:
    """All that is kept of each path: kind, mode, owner, time, attributes, content, holes, and its other names. Without
    what a transfer has there for the time being."""
    names: dict[int, list[str]] = {}
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        relative = str(path.relative_to(top))
        if relative.startswith(STAGING):
            continue
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            names.setdefault(status.st_ino, []).append(relative)
        found[relative] = (_plain(status), _attributes(path), _content(path, status))
    return found | {"names": sorted(each for each in names.values() if len(each) > 1)}


def _plain(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns


def _attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def _content(path: Path, status: os.stat_result) -> object:
    if stat.S_ISLNK(status.st_mode):
        return str(path.readlink())
    if not stat.S_ISREG(status.st_mode):
        return None
    return path.read_bytes(), status.st_blocks * 512 < status.st_size
