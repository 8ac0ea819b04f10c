"""The manifest of a folder of images: what every file was when it was sealed. Pure: text in, text out.

Every file, memory pages included, is named with its size and the **tags** of its chunks: GMAC, which is AES-256-GCM
with the chunk as associated data and nothing to encrypt (NIST SP 800-38D, 3), under a key that only the two agents of
the migration have. A tag's nonce is the file's place (`places`) plus the chunk's in the file, so no tag stands for
another place than its own. Names, sizes and order are proved by the SHA-256 of the manifest itself, which travels from
agent to agent through the controller, not beside the images.

    midstream-manifest 1
    <tag> [<tag> …] <size> <name>
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from checkpoint.core import chain
from checkpoint.core.errors import AgentError, Code

HEADER = "midstream-manifest 1"
NAME = "manifest"
MAX_BYTES = 16 << 20
"""10,000 connections make 10,000 lines of about 80 bytes, and 100 GiB of memory 100,000 tags of 33; more than this is
no manifest of ours."""

CHUNK_BYTES = 1 << 20
"""What is read, and then tagged, at once: it stays in the processor's cache in between, and several cores may share the
work on one file."""

KEY_BYTES = 32
TAG_BYTES = 16
_PAGES = re.compile(rf"({chain.ROUND})?pages-(0|[1-9][0-9]{{0,5}})\.img")
_PAGES_BITS = 20
"""As many have that number, of each round of a pre-copy; with 999 rounds that is less than 2^31."""
_STREAM = re.compile(r"tcp-stream-(0|[1-9a-f][0-9a-f]{0,7})\.img")

_LINE = re.compile(rf"((?:[0-9a-f]{{{2 * TAG_BYTES}}} )+)(0|[1-9][0-9]*) ([^ /\0]+)")

NONCE_BYTES = 12
"""The size that GCM takes as it is (SP 800-38D, 8.2.1)."""
_CHUNKS_BITS = 64
_STREAM_CHUNKS_BITS = 24
"""A queue of 16 TiB: there is none."""
_STREAMS_FROM, _PAGES_FROM = 1 << 30, 1 << 31
"""Beyond every list: no manifest has as many lines."""


class Proof(msgspec.Struct, frozen=True):
    tags: tuple[bytes, ...]
    size: int


@dataclass(frozen=True)
class Manifest:
    files: dict[str, Proof] = field(default_factory=dict)

    @property
    def image_bytes(self) -> int:
        return sum(one.size for one in self.files.values())


def is_pages(name: str) -> bool:
    """True for the files that hold memory: pages-<n>.img (criu: image-desc.c, CR_FD_PAGES), those of rounds too."""
    return _PAGES.fullmatch(name) is not None


def inode_of(name: str) -> int | None:
    """Which connection's state the file holds: tcp-stream-<inode>.img (criu: image-desc.c); or None."""
    found = _STREAM.fullmatch(name)
    return int(found[1], 16) if found else None


def place_of_pages(name: str) -> int:
    """The place of a file that holds memory: known before the list is, for it is tagged while CRIU writes it."""
    number, own = chain.split(name)
    index = int(own.removeprefix("pages-").removesuffix(".img"))
    return _PAGES_FROM + (number << _PAGES_BITS) + index << _CHUNKS_BITS


def place_of_stream(inode: int) -> int:
    """The place of a connection's file, which is tagged while CRIU is at the next one."""
    return (_STREAMS_FROM << _CHUNKS_BITS) + (inode << _STREAM_CHUNKS_BITS)


def places(names: Iterable[str], wanted: Container[str] | None = None) -> dict[str, int]:
    """The nonce of each file's first chunk: a place of its own, or that in the sorted list of all. Of those `wanted`
    alone, where that is said."""
    return {name: _place(name, at) for at, name in enumerate(sorted(names)) if wanted is None or name in wanted}


def _place(name: str, at: int) -> int:
    inode = inode_of(name)
    if inode is not None:
        return place_of_stream(inode)
    return place_of_pages(name) if is_pages(name) else at << _CHUNKS_BITS


def chunk_count(size: int) -> int:
    """How many tags a file of `size` bytes has: at least one, so that an empty one has a proof too."""
    return max(1, -(-size // CHUNK_BYTES))


def nonce(place: int, chunk: int) -> bytes:
    """The nonce of one chunk's tag: no two chunks of a folder have the same."""
    return (place + chunk).to_bytes(NONCE_BYTES, "big")


def encode(manifest: Manifest) -> bytes:
    """The manifest as bytes, the same for the same content."""
    lines = [HEADER]
    for name, one in sorted(manifest.files.items()):
        lines.append(" ".join([*(tag.hex() for tag in one.tags), str(one.size), name]))
    return ("\n".join(lines) + "\n").encode()


def decode(raw: bytes) -> Manifest:
    """Read a manifest; raises AgentError IMAGE_DAMAGED for anything else than what `encode` gives."""
    manifest = Manifest()
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError("it is too long")
        lines = raw.decode("ascii").split("\n")
        if lines[0] != HEADER or lines[-1] != "":
            raise ValueError("no header")
        last = ""
        for line in lines[1:-1]:
            name, manifest.files[name] = _decode_line(line)
            if name <= last:
                raise ValueError(f"{name!r} comes after {last!r}")
            last = name
    except ValueError as error:
        raise AgentError(Code.IMAGE_DAMAGED, f"the manifest cannot be read: {error}") from error
    return manifest


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def compare(expected: Manifest, found: Manifest) -> None:
    """Raise AgentError IMAGE_DAMAGED, naming the file, where what was found differs from what was sealed."""
    # What is missing or was added shifts the places of others, and with them their tags: it is named first.
    compare_names(expected.files, found.files)
    for name, one in sorted(expected.files.items()):
        if found.files[name] != one:
            raise AgentError(Code.IMAGE_DAMAGED, f"the file {name} changed after it was sealed")


def compare_sizes(expected: Manifest, sizes: Mapping[str, int]) -> None:
    """Raise AgentError IMAGE_DAMAGED, naming the file, where one is missing, was added, or is longer or shorter."""
    compare_names(expected.files, sizes)
    for name, one in sorted(expected.files.items()):
        if sizes[name] != one.size:
            raise AgentError(Code.IMAGE_DAMAGED, f"the file {name} has another size than when it was sealed")


def compare_names(expected: Iterable[str], found: Iterable[str]) -> None:
    """Raise AgentError IMAGE_DAMAGED where a file is missing or was added, naming it."""
    ours, theirs = set(expected), set(found)
    for name in sorted(ours - theirs):
        raise AgentError(Code.IMAGE_DAMAGED, f"the file {name} is missing from the images")
    for name in sorted(theirs - ours):
        raise AgentError(Code.IMAGE_DAMAGED, f"the file {name} was added to the images")


def _decode_line(line: str) -> tuple[str, Proof]:
    """Raises ValueError for any line that `encode` would not write."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(f"not a line of a manifest: {line[:80]!r}")
    hexed, size, name = found.groups()
    tags, size_bytes = bytes.fromhex(hexed), int(size)
    if len(tags) != chunk_count(size_bytes) * TAG_BYTES:
        raise ValueError(f"not as many tags as it has chunks: {line[:80]!r}")
    if name in (".", ".."):
        raise ValueError(f"not a file's name: {name!r}")
    if len(tags) == TAG_BYTES:  # as almost always
        return name, Proof((tags,), size_bytes)
    return name, Proof(tuple(tags[at : at + TAG_BYTES] for at in range(0, len(tags), TAG_BYTES)), size_bytes)
