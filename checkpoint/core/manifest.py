"""The manifest of a folder of images: what every file was when it was sealed. Pure: text in, text out.

Two proofs for two kinds of file. The small ones (edited by us, a few hundred kilobytes) are named with their
SHA-256. The **bulk** (memory pages, long receive queues) may be gigabytes, and SHA-256 is slower than CRIU: it is named
with its **stamp** (inode, size, and the change time that the kernel keeps and nobody can set), which costs nothing and
proves on one machine that not a byte was written. Where the kernel's change times are too coarse for that, the bulk's
SHA-256 is computed at both ends beside other work, and the commit is refused unless both are the same.

    midstream-manifest 1
    <sha256> <size> <name>
    bulk <inode> <ctime ns> <size> <name>
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from checkpoint.core.errors import AgentError, Code

HEADER = "midstream-manifest 1"
NAME = "manifest"
MAX_BYTES = 16 << 20
"""10,000 connections make 10,000 lines of about 100 bytes; more than this is no manifest of ours."""

CHUNK_BYTES = 1 << 20
"""The bulk is hashed in chunks, so that several cores may share the work: the digest is that of the chunks' digests."""

BULK_BYTES = 64 << 10
"""From here on a file is bulk: 64 kB take 0.2 ms to hash, and a thousand connections may each have as much unread."""


@dataclass(frozen=True)
class Small:
    sha256: str
    size: int


@dataclass(frozen=True)
class Stamp:
    """What the kernel says of a file. `ctime_ns` moves with every write, mode change or link (inode(7))."""

    inode: int
    ctime_ns: int
    size: int


@dataclass(frozen=True)
class Manifest:
    small: dict[str, Small] = field(default_factory=dict)
    bulk: dict[str, Stamp] = field(default_factory=dict)

    @property
    def image_bytes(self) -> int:
        return sum(one.size for one in self.small.values()) + sum(one.size for one in self.bulk.values())


def is_pages(name: str) -> bool:
    """True for the files that hold memory: pages-<n>.img (criu: image-desc.c, CR_FD_PAGES)."""
    return name.startswith("pages-") and name.endswith(".img")


def is_bulk(name: str, size: int) -> bool:
    return is_pages(name) or size >= BULK_BYTES


def encode(manifest: Manifest) -> bytes:
    """The manifest as bytes, the same for the same content."""
    lines = [HEADER]
    lines += [f"{one.sha256} {one.size} {name}" for name, one in sorted(manifest.small.items())]
    lines += [f"bulk {one.inode} {one.ctime_ns} {one.size} {name}" for name, one in sorted(manifest.bulk.items())]
    return ("\n".join(lines) + "\n").encode()


def decode(raw: bytes) -> Manifest:
    """Read a manifest; raises AgentError IMAGE_DAMAGED for anything else than what `encode` gives."""
    manifest = Manifest()
    try:
        lines = raw.decode("ascii").split("\n")
        if lines[0] != HEADER or lines[-1] != "" or len(raw) > MAX_BYTES:
            raise ValueError("no header")
        for line in lines[1:-1]:
            _decode_line(line, manifest)
    except ValueError as error:
        raise AgentError(Code.IMAGE_DAMAGED, f"the manifest cannot be read: {error}") from error
    if encode(manifest) != raw:
        raise AgentError(Code.IMAGE_DAMAGED, "the manifest is not in the form it is written in")
    return manifest


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def bulk_digest(chunks: Mapping[str, list[bytes]]) -> str:
    """One digest over the bulk, from the SHA-256 of each file's chunks, files in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(chunks):
        total.update(f"{name} {len(chunks[name])}\n".encode())
        total.update(b"".join(chunks[name]))
    return total.hexdigest()


def compare(expected: Manifest, found: Manifest) -> None:
    """Raise AgentError IMAGE_DAMAGED, naming the file, where what was found differs from what was sealed."""
    for kind, ours, theirs in (("", expected.small, found.small), ("bulk ", expected.bulk, found.bulk)):
        for name in sorted({*ours, *theirs}):
            if name not in theirs:
                raise AgentError(Code.IMAGE_DAMAGED, f"the {kind}file {name} is missing from the images")
            if name not in ours:
                raise AgentError(Code.IMAGE_DAMAGED, f"the {kind}file {name} was added to the images")
            if ours[name] != theirs[name]:
                raise AgentError(Code.IMAGE_DAMAGED, f"the {kind}file {name} changed after it was sealed")


def _decode_line(line: str, manifest: Manifest) -> None:
    parts = line.split(" ")
    if parts[0] == "bulk" and len(parts) == 5:
        _, inode, ctime_ns, size, name = parts
        manifest.bulk[_checked_name(name)] = Stamp(int(inode), int(ctime_ns), int(size))
    elif len(parts) == 3 and len(parts[0]) == 64:
        sha256, size, name = parts
        manifest.small[_checked_name(name)] = Small(sha256, int(size))
    else:
        raise ValueError(f"not a line of a manifest: {line[:80]!r}")


def _checked_name(name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"not a file's name: {name!r}")
    return name
