"""The types of the agent's API: JSON over HTTP on a unix socket, served by `checkpoint.agent`.

| call | body | answer |
|---|---|---|
| GET /healthz | | `Health` |
| GET /v1/room | | `Room` |
| GET /v1/workloads | | `list[Workload]` |
| POST /v1/workloads | `RunWorkload` | `Workload` |
| GET /v1/workloads/{name} | | `Inspection` |
| DELETE /v1/workloads/{name} | | `Workload` (killed and forgotten) |
| GET /v1/migrations | | `list[Custody]` |
| PUT /v1/outbound/{migration} | `PrepareOutbound` | `Custody` |
| POST /v1/outbound/{migration}/send | `SendImages` | `Custody` (connected to the destination's agent) |
| POST /v1/outbound/{migration}/pack | | `Packed` (the workload's files, while it runs) |
| POST /v1/outbound/{migration}/store | `StoreImages` | `Custody` (they will go into an archive) |
| POST /v1/outbound/{migration}/stop | | `Custody` |
| POST /v1/outbound/{migration}/dump | | `Dumped` |
| POST /v1/outbound/{migration}/adopt | | `Adopted` |
| POST /v1/outbound/{migration}/seal | | `Sealed` |
| POST /v1/outbound/{migration}/commit | | `Custody` |
| POST /v1/outbound/{migration}/release | | `Custody` (rolled back: the workload runs again) |
| DELETE /v1/outbound/{migration} | | `Custody` (images deleted, migration forgotten) |
| PUT /v1/inbound/{migration} | `PrepareInbound` | `Custody` |
| POST /v1/inbound/{migration}/look | `Beacon` | `Sight` (whether it sees the source's folder) |
| POST /v1/inbound/{migration}/receive | `ReceiveImages` | `Receiving` (it listens for the source's agent) |
| POST /v1/inbound/{migration}/stage | `Packed` | `Custody` (unpacked beside where they belong) |
| POST /v1/inbound/{migration}/restore | `RestoreWorkload` | `Restored` (stopped, verified) |
| POST /v1/inbound/{migration}/resume | | `Custody` |
| GET /v1/inbound/{migration}/memory | | `Memory` (post-copy: how far it has come) |
| POST /v1/checkpoints/{image} | `StoreCheckpoint` | `StoredCheckpoint` (the workload runs on) |
| POST /v1/clones/{migration} | `StartClone` | `Cloned` (a running copy) |
| DELETE /v1/inbound/{migration} | | `Custody` (before the resume the stopped copy is killed, after it only forgotten) |

Every call is idempotent: said twice, it is done once and answered twice. An error is an `ErrorBody` with the HTTP
status of its kind. Nothing here does I/O; the controller imports this module and no other of the agent's.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_BODY_BYTES = 32 << 20

Fault = Literal["request", "workload", "pod", "machine", "midstream"]


MemoryWay = Literal["stop-and-copy", "post-copy"]
"""How a workload's private memory travels: all of it inside the freeze, or afterwards, while the workload runs."""

MOST_GHOST_BYTES = (1 << 32) - 1
"""CRIU takes the limit as a u32 (criu: rpc.proto, ghost_limit)."""

ImageKey = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""AES-256 key of one migration's images, made by the controller for the two agents alone: in memory, never written.

For one migration only: another has another.
"""


class Problem(msgspec.Struct, frozen=True):
    """What went wrong, whose fault it is, and what to do about it."""

    code: str
    message: str
    fault: Fault
    hint: str = ""


class ErrorBody(msgspec.Struct, frozen=True):
    error: Problem


class MemoryFeatures(msgspec.Struct, frozen=True):
    """Which ways of carrying memory work here, beside stop-and-copy, which always does."""

    post_copy_bytes: int = 0
    """How much memory post-copy can carry; 0: none."""
    pre_copy: bool = False
    """The kernel tracks what a process writes."""


class Health(msgspec.Struct, frozen=True):
    version: str
    criu_version: str
    kernel: str
    architecture: str
    memory: MemoryFeatures = MemoryFeatures()


class Room(msgspec.Struct, frozen=True):
    """What the pod could still take in."""

    memory_bytes: int
    """The smaller of the machine's MemAvailable and what the pod's memory cgroup has left."""
    image_bytes: int
    """Free space where images are kept."""
    pids: list[int]
    """Thread ids in use in the pod's PID namespace."""
    listening_ports: list[int]


class RunWorkload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    argv: list[str]
    environment: dict[str, str] = {}
    directory: str = "/"


class Workload(msgspec.Struct, frozen=True):
    name: str
    pid: int
    argv: list[str]
    state: Literal["running", "stopped", "exited"]
    migration: str = ""
    """The migration that holds it, or "" while none."""
    arrived_by: str = ""
    """The migration that brought it here, or "" when it was started here."""


class Inspection(msgspec.Struct, frozen=True):
    """A workload, looked at before it is touched."""

    workload: Workload
    pids: list[int]
    """Every thread id of the tree: they must be free at the destination."""
    memory_bytes: int
    """Anonymous and shared memory that a dump would write."""
    connections: int
    listening_ports: list[int]
    problems: list[Problem]
    """What is known already to make a move fail."""
    losses: list[Problem] = []
    """Sockets that a move cannot keep; `PrepareOutbound.allow_loss` moves the rest without them."""


class Files(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of the files that travel with a workload, beside its pod's own layer."""

    named: list[str] = []
    """Folders that travel too (`--with`)."""
    replace_newer: bool = False
    """Also what the destination has changed later."""
    ghost_limit_bytes: Annotated[int, msgspec.Meta(ge=0, le=MOST_GHOST_BYTES)] = 64 << 20
    """The largest deleted file, still open, that travels, with the images. CRIU's own 1 MiB is less than many a scratch
    file."""


NO_FILES = Files()


class Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The workload's files as they were before the freeze (`checkpoint.baggage`)."""

    folder: str
    """0700; "" where nothing travels."""
    digest: str = ""
    files: int = 0
    size_bytes: int = 0


class PrepareOutbound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    workload: str
    readdress: dict[str, str]
    """The pod's address -> the destination pod's, one entry for each family."""
    max_hold_seconds: float
    """The longest time from the stop to the commit; past it the agent rolls back by itself and refuses the commit."""
    image_key: ImageKey
    allow_loss: bool = False
    """Reset the connections that cannot be kept, when the workload is resumed, and move the rest."""
    memory: MemoryWay = "stop-and-copy"
    files: Files = Files()


class PrepareInbound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    workload: str
    argv: list[str]
    image_key: ImageKey
    memory: MemoryWay = "stop-and-copy"
    files: Files = Files()


class Memory(msgspec.Struct, frozen=True):
    """How the memory of a workload that runs already is coming along (post-copy)."""

    state: Literal["waiting", "fetching", "complete", "lost"]
    reason: str = ""
    """Why it is lost."""
    total_bytes: int = 0
    arrived_bytes: int = 0
    faults: int = 0
    """How often the workload touched a page that was not there yet."""
    seconds: float = 0.0
    """Since the fetching began."""


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


class Receiving(msgspec.Struct, frozen=True):
    port: int
    """Where it listens for whoever has the migration's image key."""


class SendImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the images go, as CRIU writes them."""

    host: str
    port: int
    streams: Annotated[int, msgspec.Meta(ge=1, le=8)]
    """Connections at once."""
    bytes_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Over all of them; 0: no limit."""


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


class Custody(msgspec.Struct, frozen=True):
    """Who has the workload, as this agent knows it."""

    migration: str
    workload: str
    side: Literal["source", "destination"]
    state: str
    """A `checkpoint.core.custody.State` in lower case."""
    reason: str = ""
    """Why it was released, where it was."""
    seconds: dict[str, float] = {}
    """How long the agent's own steps took."""
    memory_port: int = 0
    """Source, post-copy: where in the pod's network the memory is given."""
    beacon: Beacon | None = None
    """Source: by it another agent finds out whether it sees this one's folder."""


class Dumped(msgspec.Struct, frozen=True):
    image_bytes: int
    processes: int
    criu_seconds: dict[str, float]
    """CRIU's own account (stats-dump): freezing, frozen, memdump, memwrite."""


class Adopted(msgspec.Struct, frozen=True):
    flows: int
    listeners: int
    legs: msgspec.Raw
    """A JSON list of `proxy.api.Leg`, as the source's proxy gave it; the agent does not look inside."""


class Sealed(msgspec.Struct, frozen=True):
    """The images are edited, and their manifest is written."""

    images: str
    """The folder, 0700, for an agent that sees it; "" where the images have been sent."""
    manifest_digest: str
    """SHA-256 of the manifest, which holds every file's name, size and tags (`checkpoint.core.manifest`)."""
    image_bytes: int
    transfer: TransferReport | None = None


class MemorySource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the memory that is not among the images is given (`checkpoint.memory.giver`)."""

    host: str
    port: int


class Restored(msgspec.Struct, frozen=True):
    pid: int
    processes: int
    verified_bytes: int
    criu_seconds: dict[str, float]


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


class StoreImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the images go when they are sealed."""

    archive: Archive
    key: KeySource
    deadline_seconds: float


class FetchImages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where they have been stored, under the migration's name."""

    archive: Archive
    key: KeySource
    deadline_seconds: float


class RestoreWorkload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    images: str
    """The folder; "": what has been received, or is stored."""
    manifest_digest: str
    memory: MemorySource | None = None
    """With post-copy; else None."""
    stored: FetchImages | None = None


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
