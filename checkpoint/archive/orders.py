"""What the archive program does for the agent; what it does for the command line is in `checkpoint.api`."""

from __future__ import annotations

from typing import Literal

import msgspec

from checkpoint.api import Archive, Compression, CompressionMode, KeySource
from checkpoint.core.stored import Machine, Manifest


class Write(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="write"):
    """Store a folder; answered by `WriteDone`."""

    archive: Archive
    key: KeySource
    folder: str
    draft: Manifest
    ttl_seconds: float
    deadline_seconds: float
    compression: CompressionMode


class WriteDone(msgspec.Struct, frozen=True):
    key: str
    files: int
    image_bytes: int
    stored_bytes: int
    compression: Compression


class Read(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="read"):
    """Fetch an image into a folder that is not there yet; answered by its `Manifest`."""

    archive: Archive
    key: KeySource
    image: str
    folder: str
    here: Machine
    wait_seconds: float
    deadline_seconds: float


class Try(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="try"):
    """Find out whether an image could be stored under that name, and read, as things are; answered by null.

    `role`: who asks. What a writer tries is left for a reader, and goes with the image; who is alone leaves nothing.
    """

    archive: Archive
    key: KeySource
    image: str
    role: Literal["alone", "writer", "reader"]
