"""A move, from its preparation to its end, as each of the two agents sees it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from checkpoint.api.transfers import Beacon, FetchImages, TransferReport

MemoryWay = Literal["stop-and-copy", "post-copy", "pre-copy"]
"""How a workload's private memory travels: inside the freeze, or while the workload runs: afterwards, or before."""

Next = Literal["another-round", "freeze", "fall-back"]
"""What a round of pre-copy says is to be done: one more, to stop the workload, or to give pre-copy up."""


MOST_GHOST_BYTES = (1 << 32) - 1
"""CRIU takes the limit as a u32 (criu: rpc.proto, ghost_limit)."""


ImageKey = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""AES-256 key of one migration's images, made by the controller for the two agents alone: in memory, never written.

For one migration only: another has another.
"""


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
    stored: FetchImages | None = None
    """What is in the folder is fetched from there."""


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
    cpu_features: list[str] = []
    """What the workload found of the processor when it was started."""


class Memory(msgspec.Struct, frozen=True):
    """How the memory is coming along that is in no image: with post-copy, of a workload that runs already."""

    state: Literal["waiting", "fetching", "complete", "lost"]
    reason: str = ""
    """Why it is lost."""
    total_bytes: int = 0
    arrived_bytes: int = 0
    faults: int = 0
    """How often the workload touched a page that was not there yet."""
    seconds: float = 0.0
    """Since the fetching began."""
    early: Literal["", "coming", "there"] = ""
    """Whether some of it is sent before the freeze; there: all that there is to send."""
    early_bytes: int = 0
    """So much of it was."""
    kept_bytes: int = 0
    """What of all that has arrived was sent before the freeze, and had not changed since."""


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
    """Source: where in the pod's network the memory is given, where it is in no image."""
    beacon: Beacon | None = None
    """Source: by it another agent finds out whether it sees this one's folder."""


RECORD = "agent/state.json"
"""In the pod's folder: what the agent has written down, for itself and for whoever finds it dead with its pod. A line
for each state, a `Record` among other things; the last whole one counts."""


class Record(msgspec.Struct, frozen=True):
    migrations: list[Custody] = []


class PreDump(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One round of pre-copy: what has been written since the round before, everything in the first."""

    number: Annotated[int, msgspec.Meta(ge=1)]
    base_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    """What the freeze is expected to take even if nothing were left to copy."""


class PreDumped(msgspec.Struct, frozen=True):
    number: int
    written_bytes: int
    seconds: float
    """Until it was written, and where it is sent, until it had arrived."""
    then: Next
    reason: str
    freeze_seconds: float
    """What the freeze would be if it came now."""


class Socket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a copy's end of a connection is to be, but for what its leg says."""

    family: int
    """AF_INET or AF_INET6."""
    flags: int
    """Of open(2)."""
    owner: tuple[int, int]
    """User and group."""
    options: list[tuple[str, int, int, str]]
    """Name, level, number and value in hex of each that a fresh socket has otherwise, but for SO_REUSEADDR."""
    reuse_address: bool
    number: int = 0
    """Of its first descriptor, most likely."""


class Foresee(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name the connections that can be made at the destination while the workload runs."""

    fewest: Annotated[int, msgspec.Meta(ge=1)]
    """None, where there are fewer: what CRIU is spared is to be worth it."""


class Connections(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Connections of a workload that still runs: both ends of each can be made at the destination before the freeze."""

    legs: msgspec.Raw
    """A JSON list of `proxy.api.Leg`, as the source's proxy gave it."""
    sockets: list[Socket]
    """The other end of each."""


class Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the workload has changed of a connection since the other end of its pair was made."""

    flow: int
    options: list[tuple[str, int, int, str]] = []
    flags: int | None = None


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    changes: list[Changed]


class Paired(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    flows: list[int]
    """The numbers of those of which both ends are there."""


class Dumped(msgspec.Struct, frozen=True):
    image_bytes: int
    processes: int
    criu_seconds: dict[str, float]
    """CRIU's own account (stats-dump): freezing, frozen, memdump, memwrite."""
    legs: msgspec.Raw
    """Of the connections that were adopted meanwhile: a JSON list of `proxy.api.Leg`, as the source's proxy gave it;
    the agent does not look inside."""
    paired: msgspec.Raw = msgspec.Raw(b"[]")
    """The same of pairs: a JSON list of `proxy.api.PairedLeg`."""


class Cut(msgspec.Struct, frozen=True):
    """A connection that nobody adopts: both ends see it end with the commit."""

    peer: str
    direction: Literal["inbound", "outbound"]
    why: str


class Adopted(msgspec.Struct, frozen=True):
    flows: int
    listeners: int
    legs: msgspec.Raw
    """Those that `Dumped` has not."""
    paired: msgspec.Raw = msgspec.Raw(b"[]")
    cut: list[Cut] = []


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


class EarlyMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory that is sent before the freeze, while the workload runs at the source."""

    source: MemorySource
    limit_bytes: Annotated[int, msgspec.Meta(ge=0)]
    """What the destination has room for."""


class Restored(msgspec.Struct, frozen=True):
    pid: int
    processes: int
    verified_bytes: int
    criu_seconds: dict[str, float]
    not_carried: list[str] = []
    """What the copy has not as the original had it, in words."""


class RestoreWorkload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    images: str
    """The folder; "": what has been received, or is stored."""
    manifest_digest: str
    memory: MemorySource | None = None
    """Where it is in no image."""
    stored: FetchImages | None = None
