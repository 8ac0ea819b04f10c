"""How a move's images get from one agent to the other."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from checkpoint.api.archives import Archive, KeySource

TransferWay = Literal["shared", "direct", "store"]
"""How the images get from one agent to the other: in a folder that both see, over connections of their own, or through
an archive."""


class Beacon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that the source wrote: an agent that finds these words there sees the source's image folder."""

    path: str
    words: str


class Sight(msgspec.Struct, frozen=True):
    seen: bool


class ReceiveImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str
    """The pod's own address."""
    files: bool = False
    """Not the images: the workload's files, as they were packed before the freeze."""
    memory: bool = False
    """The memory comes beside the images, from process to process: see `SendImages`."""


class Receiving(msgspec.Struct, frozen=True):
    port: int
    """Where it listens for whoever has the migration's image key."""
    folder: str
    """Where what arrives is put."""


class ReserveRoom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Have room for images taken before they come, while the workload runs at the source."""

    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    leave_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """So much memory is left free, for the copy above all: where there is less, less is taken."""


class Reserved(msgspec.Struct, frozen=True):
    state: Literal["coming", "there"]
    """`there`: as much as is taken."""
    size_bytes: int
    seconds: float
    """What that took, so far."""


class SendImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the images go, as CRIU writes them; or the workload's files, at once."""

    host: str
    port: int
    streams: Annotated[int, msgspec.Meta(ge=1, le=8)]
    """Connections at once."""
    bytes_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Over all of them; 0: no limit."""
    files: bool = False
    memory: bool = False
    """The workload's private memory is in no image: it goes straight from the stopped processes to the restored ones,
    all of it before the commit."""


class TransferReport(msgspec.Struct, frozen=True):
    """How the images got there, as measured."""

    way: TransferWay
    image_bytes: int
    wire_bytes: int = 0
    """What is left of them by compression, before encryption."""
    seconds: float = 0.0
    """From the first byte, while CRIU still wrote, until all had arrived."""
    streams: int = 0
    retries: int = 0
    """How often a connection broke, and was made again."""
    compressed_parcels: int = 0


class StoreImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the images go when they are sealed; or the workload's files, at once."""

    archive: Archive
    key: KeySource
    deadline_seconds: float
    files: bool = False


class FetchImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where they have been stored, under the migration's name, or one made of it."""

    archive: Archive
    key: KeySource
    deadline_seconds: float
