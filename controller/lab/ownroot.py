"""A root file system of the pod's own: an overlay on the machine's (K: Documentation/filesystems/overlayfs.rst).

Standard library only: `init` runs this as PID 1. What the pod reads is the machine's; what it writes goes to the layer
`upper`, which is there only for it. What is shared with the machine, and so with every other pod, is

- each file system that is mounted below the machine's root (/dev, /sys, and a /home or /run of its own kind), and
- the paths that were named: the lab's own folder, and what `--share` says.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Iterator

MS_BIND, MS_REC = 1 << 12, 1 << 14
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
"""The number of pivot_root(2), which the C library does not wrap."""

OPTIONS = "redirect_dir=off,metacopy=off,index=off"
"""A file of the upper layer is whole, and lies where it is seen: so the layer can be read as what it is."""

_ESCAPED = re.compile(r"\\(\d{3})")


def enter(folder: str, shared: Iterable[str]) -> None:
    """Makes the overlay in `folder` (`upper`, `work` and `merged`, which are there) this mount namespace's root.

    Raises OSError.
    """
    merged = f"{folder}/merged"
    layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work,{OPTIONS}"
    below = list(mounted_below_root())
    _mount(b"overlay", merged, b"overlay", 0, layers.encode())
    for path in (*below, *outermost(shared)):
        _mount(path.encode(), merged + path, None, MS_BIND | MS_REC, None)
    os.chdir(merged)
    # The new root over the old one, and then the old one away from below it (pivot_root(2), NOTES).
    _call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    _call("umount2", merged.encode(), MNT_DETACH)  # the lab's folder has been bound with what was mounted in it


def outermost(paths: Iterable[str]) -> list[str]:
    """The paths without those that are inside another one."""
    found: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(f"{outer}/") for outer in found):
            found.append(path)
    return found


def mounted_below_root() -> Iterator[str]:
    """The mount points that lie straight on the root file system (proc_pid_mountinfo(5)), each once."""
    root = _mount_id("/")
    with open("/proc/self/mountinfo") as lines:
        points = [words[4] for words in map(str.split, lines) if words[1] == root and words[4] != "/"]
    return iter(dict.fromkeys(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), point) for point in points))


def _mount_id(path: str) -> str:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as lines:
            return next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
    finally:
        os.close(descriptor)


def _mount(source: bytes, target: str, kind: bytes | None, flags: int, data: bytes | None) -> None:
    try:
        _call("mount", source, target.encode(), kind, ctypes.c_ulong(flags), data)
    except OSError as error:
        raise OSError(error.errno, f"{source.decode()} on {target}: {error.strerror}") from error


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
