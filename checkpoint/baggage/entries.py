"""What is done to one entry of a folder, which is reached by an open folder and a name: its attributes, and moving it
to and from a staging whatever an overlay has in its way."""

from __future__ import annotations

import errno
import os
import shutil
import stat

import msgspec

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Attributes(msgspec.Struct, frozen=True):
    """Of a folder that is there already and gets those of the workload's."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[str, bytes]


def status(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def move(name: str, parent: int, target: str) -> None:
    """Rename, or, for a folder that a lower layer has (rename(2) says EXDEV), its content one by one."""
    try:
        os.rename(name, target, src_dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        folder = os.open(name, FOLDER, dir_fd=parent)
        try:
            before = attributes(folder)
            os.mkdir(target, 0o700)
            inside = os.open(target, FOLDER)
            try:
                for inner in os.listdir(folder):
                    move(inner, folder, f"{target}/{inner}")
                set_attributes(inside, before)
            finally:
                os.close(inside)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=parent)


def move_back(source: str, parent: int, name: str) -> None:
    """What `move` has moved, all of it or a part, back to its name."""
    there = status(parent, name)
    if there is None:
        os.rename(source, name, dst_dir_fd=parent)
        return
    folder = os.open(name, FOLDER, dir_fd=parent)  # a folder of which a part has moved
    try:
        for inner in os.listdir(source):
            move_back(f"{source}/{inner}", folder, inner)
    finally:
        os.close(folder)
    os.rmdir(source)


def make_room(path: str) -> None:
    """The folders above a path of the staging: an emptied one may have been moved before."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)


def remove(path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def clear(path: str) -> None:
    for name in os.listxattr(path):
        if not name.startswith("trusted.overlay."):
            os.removexattr(path, name)


def attributes(folder: int) -> Attributes:
    found = os.fstat(folder)
    xattrs = {
        name: os.getxattr(folder, name) for name in os.listxattr(folder) if not name.startswith("trusted.overlay.")
    }
    return Attributes(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, xattrs)


def set_attributes(folder: int, wanted: Attributes) -> None:
    now = attributes(folder)
    if (now.uid, now.gid) != (wanted.uid, wanted.gid):
        os.fchown(folder, wanted.uid, wanted.gid)
    for name in now.xattrs.keys() - wanted.xattrs.keys():
        os.removexattr(folder, name)
    for name, value in wanted.xattrs.items():
        if now.xattrs.get(name) != value:
            os.setxattr(folder, name, value)
    if now.mode != wanted.mode:
        os.fchmod(folder, wanted.mode)
    os.utime(folder, ns=(os.fstat(folder).st_atime_ns, wanted.mtime_ns))
