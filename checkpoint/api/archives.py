"""Checkpoints in an archive, copies out of it, and the orders to the archive program."""

from __future__ import annotations

from typing import Literal

import msgspec

from checkpoint.api.common import Problem


class Archive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where images are stored."""

    url: str
    """A folder, s3://bucket/prefix, or another scheme that obstore knows."""
    options: dict[str, str] = {}
    """obstore's own configuration: endpoint, region, credentials. On no command line and in no answer or record."""

    def __repr__(self) -> str:
        return f"Archive({self.url!r})"


class KeySource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the key-encryption key is read by whoever needs it; never the key itself. One of the two."""

    file: str = ""
    """A file of root's alone: 32 bytes, or 64 hex digits."""
    command: str = ""
    """A program with its arguments, run without a shell, that prints the same."""


CompressionMode = Literal["auto", "on", "off"]


class StoreCheckpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    workload: str
    archive: Archive
    key: KeySource
    addresses: list[str]
    """The pod's own."""
    ttl_seconds: float
    """0: for ever."""
    max_hold_seconds: float
    """The longest time that the workload may stand still."""
    deadline_seconds: float
    """For the upload."""
    compression: CompressionMode = "auto"


class Compression(msgspec.Struct, frozen=True):
    """What compressing did, as measured."""

    mode: str
    plain_bytes: int
    packed_bytes: int
    compressed_chunks: int
    plain_chunks: int
    compress_bytes_per_second: float
    wire_bytes_per_second: float


class StoredCheckpoint(msgspec.Struct, frozen=True):
    image: str
    workload: str
    key: str
    """The id of the key-encryption key."""
    processes: int
    connections: int
    files: int
    image_bytes: int
    stored_bytes: int
    freeze_seconds: float
    """How long the workload stood still."""
    upload_seconds: float
    compression: Compression


class StartClone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    image: str
    workload: str
    """The copy's name."""
    archive: Archive
    key: KeySource
    addresses: list[str]
    """The pod's own: they take the place of those that the workload had."""
    wait_seconds: float
    """How long to wait for an image that is not complete yet; 0: not at all."""
    deadline_seconds: float
    """For the download."""


class Cloned(msgspec.Struct, frozen=True):
    workload: str
    pid: int
    processes: int
    closed_connections: int
    """Inherited ones, closed in the copy."""
    image_bytes: int
    download_seconds: float
    restore_seconds: float


class StoredImage(msgspec.Struct, frozen=True):
    """An image in an archive, as `midstream images list` shows it: no key is needed for that."""

    image: str
    state: Literal["ready", "incomplete", "unreadable"]
    workload: str = ""
    created_seconds: float = 0.0
    expires_seconds: float = 0.0
    """Unix time by the archive's clock; 0: never."""
    in_use: bool = False
    image_bytes: int = 0
    stored_bytes: int = 0
    key: str = ""


class ListImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="list"):
    """An order to `python -m checkpoint.archive`, on its standard input; answered by `list[StoredImage]`."""

    archive: Archive


class ShowImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="show"):
    """Answered by the image's manifest (`checkpoint.core.stored.Manifest`, docs/images.md)."""

    archive: Archive
    key: KeySource
    image: str


class DeleteImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="delete"):
    """Answered by null."""

    archive: Archive
    image: str
    force: bool = False


class CollectImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="gc"):
    """Answered by the names of what is gone, or would be."""

    archive: Archive
    dry_run: bool = False


class MakeKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="key"):
    """Answered by the new key's id."""

    file: str


class ArchiveAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the archive program prints: a line of JSON."""

    answer: msgspec.Raw = msgspec.Raw(b"null")
    error: Problem | None = None
