"""The initramfs: a cpio archive of the newc kind (K: Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

MODULES = ("virtio_pci", "virtio_console", "virtio-rng", "9pnet_virtio", "9p", "overlay")
"""What it takes to reach the host's files and to speak to it: Debian's kernel has none of them built in."""
FOLDERS = ("bin", "proc", "sys", "dev", "host", "written", "root")
COMMANDS = ("sh", "mount", "mkdir", "cp", "modprobe", "switch_root")


def initramfs(kernel: Path, version: str, busybox: Path, files: dict[str, bytes]) -> bytes:
    """busybox, what `MODULES` need of the unpacked package `kernel`, and `files`, by their paths."""
    found = dict.fromkeys(FOLDERS, (stat.S_IFDIR | 0o755, b""))
    found |= {f"bin/{name}": (stat.S_IFLNK | 0o777, b"busybox") for name in COMMANDS}
    found["bin/busybox"] = (stat.S_IFREG | 0o755, busybox.read_bytes())
    for path in _modules(kernel, f"lib/modules/{version}"):
        found |= {str(above): (stat.S_IFDIR | 0o755, b"") for above in list(path.parents)[-2::-1]}
        found[str(path)] = (stat.S_IFREG | 0o644, (kernel / path).read_bytes())
    found |= {name: (stat.S_IFREG | 0o755, raw) for name, raw in files.items()}
    return cpio(found)


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Each path's mode and content (a symbolic link's: where it leads), in their order: folders first."""
    entries = (_entry(*one) for one in enumerate((*files.items(), ("TRAILER!!!", (0, b"")))))
    return b"".join(entries)


def _entry(number: int, one: tuple[str, tuple[int, bytes]]) -> bytes:
    name, (mode, content) = one
    # inode, mode, uid, gid, links, time, size, the device's numbers twice, the name's length, no checksum
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 4)


def _modules(kernel: Path, folder: str) -> Iterator[Path]:
    """modules.dep, and the files that it names for `MODULES` and what they need."""
    yield Path(folder, "modules.dep")
    for line in (kernel / folder / "modules.dep").read_text().splitlines():
        module, needs = line.split(":")
        if Path(module).stem in MODULES:
            yield from (Path(folder, name) for name in (module, *needs.split()))
