"""The types of the agent's API: JSON over HTTP on a unix socket, served by `checkpoint.agent`.

| call | body | answer |
|---|---|---|
| GET /healthz | | `Health` |
| GET /v1/room | | `Room` |
| GET /v1/workloads | | `list[Workload]` |
| POST /v1/workloads | `RunWorkload` | `Workload` |
| GET /v1/workloads/{name}?with=FOLDER&… | | `Inspection` (`with`: folders that would travel too) |
| DELETE /v1/workloads/{name} | | `Workload` (killed and forgotten) |
| GET /v1/migrations | | `list[Custody]` |
| PUT /v1/outbound/{migration} | `PrepareOutbound` | `Custody` |
| POST /v1/outbound/{migration}/send | `SendImages` | `Custody` (connected to the destination's agent) |
| POST /v1/outbound/{migration}/pack | | `Packed` (the workload's files, while it runs) |
| POST /v1/outbound/{migration}/store | `StoreImages` | `Custody` (they will go into an archive, which was tried out) |
| POST /v1/outbound/{migration}/foresee | `Foresee` | `Connections` (those that the destination can make ahead) |
| POST /v1/outbound/{migration}/pair | `Paired` | `Custody` |
| POST /v1/outbound/{migration}/survey | | `Custody` (memory that goes in no image was looked through) |
| POST /v1/outbound/{migration}/ready | | `Custody` (CRIU has begun, and waits for the stop) |
| POST /v1/outbound/{migration}/predump | `PreDump` | `PreDumped` (pre-copy: one round, while it runs) |
| POST /v1/outbound/{migration}/stop?ahead=1 | | `Custody` (`ahead`: dump, adopt and seal follow unasked) |
| POST /v1/outbound/{migration}/dump | | `Dumped` |
| POST /v1/outbound/{migration}/adopt | | `Adopted` |
| POST /v1/outbound/{migration}/seal | | `Sealed` |
| POST /v1/outbound/{migration}/commit | | `Custody` |
| POST /v1/outbound/{migration}/release | | `Custody` (rolled back: the workload runs again) |
| DELETE /v1/outbound/{migration} | | `Custody` (images deleted, migration forgotten) |
| PUT /v1/inbound/{migration} | `PrepareInbound` | `Custody` |
| POST /v1/inbound/{migration}/look | `Beacon` | `Sight` (whether it sees the source's folder) |
| POST /v1/inbound/{migration}/receive | `ReceiveImages` | `Receiving` (it listens for the source's agent) |
| POST /v1/inbound/{migration}/reserve | `ReserveRoom` | `Reserved` (of the room for the images, so far) |
| POST /v1/inbound/{migration}/try | `FetchImages` | `Custody` (the archive can be read, as things are) |
| POST /v1/inbound/{migration}/early | `EarlyMemory` | `Memory` (what is sent before the freeze, so far) |
| POST /v1/inbound/{migration}/stage | `Packed` | `Custody` (unpacked beside where they belong) |
| POST /v1/inbound/{migration}/pair | `Connections` | `Paired` (the copy's ends of them, made before the freeze) |
| POST /v1/outbound/{migration}/compare | | `Changes` (of the connections of pairs, since those were made) |
| POST /v1/inbound/{migration}/adjust | `Changes` | `Custody` |
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

from checkpoint.api.archives import (
    Archive,
    ArchiveAnswer,
    Cloned,
    CollectImages,
    Compression,
    CompressionMode,
    DeleteImage,
    KeySource,
    ListImages,
    MakeKey,
    ShowImage,
    StartClone,
    StoreCheckpoint,
    StoredCheckpoint,
    StoredImage,
)
from checkpoint.api.common import MAX_BODY_BYTES, CriuLog, ErrorBody, Fault, Problem
from checkpoint.api.moves import (
    MOST_GHOST_BYTES,
    NO_FILES,
    RECORD,
    Adopted,
    Changed,
    Changes,
    Connections,
    Custody,
    Cut,
    Dumped,
    EarlyMemory,
    Files,
    Foresee,
    ImageKey,
    Memory,
    MemorySource,
    MemoryWay,
    Next,
    Packed,
    Paired,
    PreDump,
    PreDumped,
    PrepareInbound,
    PrepareOutbound,
    Record,
    Restored,
    RestoreWorkload,
    Sealed,
    Socket,
)
from checkpoint.api.pods import (
    Belongings,
    DeletedFile,
    FileLock,
    Ground,
    Health,
    Inspection,
    MemoryFeatures,
    OpenMount,
    Room,
    RunWorkload,
    Workload,
)
from checkpoint.api.transfers import (
    Beacon,
    FetchImages,
    ReceiveImages,
    Receiving,
    Reserved,
    ReserveRoom,
    SendImages,
    Sight,
    StoreImages,
    TransferReport,
    TransferWay,
)

__all__ = [
    "MAX_BODY_BYTES",
    "MOST_GHOST_BYTES",
    "NO_FILES",
    "RECORD",
    "Adopted",
    "Archive",
    "ArchiveAnswer",
    "Beacon",
    "Belongings",
    "Changed",
    "Changes",
    "Cloned",
    "CollectImages",
    "Compression",
    "CompressionMode",
    "Connections",
    "CriuLog",
    "Custody",
    "Cut",
    "DeleteImage",
    "DeletedFile",
    "Dumped",
    "EarlyMemory",
    "ErrorBody",
    "Fault",
    "FetchImages",
    "FileLock",
    "Files",
    "Foresee",
    "Ground",
    "Health",
    "ImageKey",
    "Inspection",
    "KeySource",
    "ListImages",
    "MakeKey",
    "Memory",
    "MemoryFeatures",
    "MemorySource",
    "MemoryWay",
    "Next",
    "OpenMount",
    "Packed",
    "Paired",
    "PreDump",
    "PreDumped",
    "PrepareInbound",
    "PrepareOutbound",
    "Problem",
    "ReceiveImages",
    "Receiving",
    "Record",
    "ReserveRoom",
    "Reserved",
    "RestoreWorkload",
    "Restored",
    "Room",
    "RunWorkload",
    "Sealed",
    "SendImages",
    "ShowImage",
    "Sight",
    "Socket",
    "StartClone",
    "StoreCheckpoint",
    "StoreImages",
    "StoredCheckpoint",
    "StoredImage",
    "TransferReport",
    "TransferWay",
    "Workload",
]
