"""What `midstream migrate` prints with `--json`: the account of one migration, field by field.

Times are seconds, sizes are bytes. The structs are the documentation: `schema()` turns them into a JSON schema, with
the same words. A reader may rely on every field; a later version may add fields, and takes none away.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Outcome = Literal["succeeded", "rolled-back", "failed"]
Fault = Literal["request", "workload", "pod", "peer", "machine", "midstream"]

Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]


class CriuLog(msgspec.Struct, frozen=True):
    """What is kept of CRIU's log of a dump or restore that failed."""

    path: Annotated[str, Meta(description="Its end, 64 KiB at most, for root alone; empty where it was not kept.")]
    lines: Annotated[list[str], Meta(description="Its first warnings and errors: ten, of 300 characters, at most.")]


class Problem(msgspec.Struct, frozen=True):
    """What went wrong, whose fault it is, and what to do about it."""

    code: Annotated[str, Meta(description="One word of a closed set, for programs.")]
    message: Annotated[str, Meta(description="What happened, for people.")]
    fault: Annotated[Fault, Meta(description="Where the cause lies.")]
    hint: Annotated[str, Meta(description="What to do next; empty where nothing is known.")] = ""
    criu_log: Annotated[CriuLog | None, Meta(description="Where CRIU has failed; else null.")] = None


class PhaseTime(msgspec.Struct, frozen=True):
    """One phase the migration went through."""

    name: Annotated[str, Meta(description="The phase's name, as in ARCHITECTURE.md.")]
    seconds: Annotated[Seconds, Meta(description="How long it took, in seconds.")]


class FlowCounts(msgspec.Struct, frozen=True):
    """How many TCP connections the migration dealt with."""

    adopted: Annotated[Count, Meta(description="Connections of the workload that the source's proxy took over.")] = 0
    accepted_during_hold: Annotated[Count, Meta(description="New connections completed while nothing ran.")] = 0
    lost: Annotated[Count, Meta(description="Connections that did not survive.")] = 0
    made_ahead: Annotated[Count, Meta(description="Of the adopted, those made at the destination before the stop.")] = 0


class ByteCounts(msgspec.Struct, frozen=True):
    """How many payload bytes the migration kept, or did not."""

    held: Annotated[Count, Meta(description="Bytes that came from peers between the snapshot and the repointing.")] = 0
    lost: Annotated[Count, Meta(description="Bytes that entered a hand-over and did not leave it, by the ledger.")] = 0


class LedgerRow(msgspec.Struct, frozen=True):
    """One flow's account, both proxies' views put together."""

    peer: Annotated[str, Meta(description="The other party, address:port.")]
    direction: Annotated[
        Literal["inbound", "outbound", "accepted", "datagrams"],
        Meta(description="Who opened it: the peer, the workload, or the peer during the hold. Or it is a UDP socket."),
    ]
    unread_bytes: Annotated[Count, Meta(description="Received and not read at the snapshot: carried in the image.")]
    held_bytes: Annotated[Count, Meta(description="Received from the peer between the snapshot and the repointing.")]
    delivered_to_app_bytes: Annotated[Count, Meta(description="From the peer, given to the restored workload.")]
    delivered_to_peer_bytes: Annotated[Count, Meta(description="From the restored workload, given to the peer.")]
    offsets_equal: Annotated[bool, Meta(description="True when every hand-over gave out exactly what it was given.")]
    dropped_datagrams: Annotated[Count, Meta(description="Of a UDP socket: lost since the snapshot, as UDP may.")] = 0
    given_up: Annotated[str, Meta(description="Why it could not be kept and was reset (--allow-loss); else empty.")] = (
        ""
    )


class RoundAccount(msgspec.Struct, frozen=True):
    """One round of pre-copy, before the freeze."""

    bytes: Annotated[Count, Meta(description="What it copied.")]
    seconds: Annotated[Seconds, Meta(description="In what time.")]


class MemoryAccount(msgspec.Struct, frozen=True):
    """How the workload's memory travelled, and what had been expected of it."""

    way: Annotated[
        Literal["stop-and-copy", "post-copy", "pre-copy"],
        Meta(description="Inside the freeze; or but for the rest after it, or before it."),
    ]
    memory_bytes: Annotated[Count, Meta(description="The workload's memory, as the plan saw it.")]
    predicted_freeze_seconds: Annotated[Seconds, Meta(description="What the plan expected of the freeze.")]
    predicted_total_seconds: Annotated[Seconds, Meta(description="What it expected of the whole move.")]
    total_seconds: Annotated[Seconds, Meta(description="From Preparing to the end.")]
    fetched_bytes: Annotated[Count, Meta(description="What came from process to process, through no image.")] = 0
    fetch_seconds: Annotated[Seconds, Meta(description="How long that took.")] = 0.0
    early_bytes: Annotated[
        Count, Meta(description="Of what was fetched: sent while the workload ran, before the freeze.")
    ] = 0
    again_bytes: Annotated[Count, Meta(description="Of what was fetched: sent inside the freeze, or sent again.")] = 0
    faults: Annotated[Count, Meta(description="Post-copy: pages the workload had to wait for.")] = 0
    rounds: Annotated[list[RoundAccount], Meta(description="Pre-copy: those in vain, too.")] = []
    fell_back: Annotated[str, Meta(description="Why not pre-copy, where asked for or begun; else empty.")] = ""


class TransferAccount(msgspec.Struct, frozen=True):
    """How the images got from one agent to the other."""

    way: Annotated[Literal["shared", "direct", "store"], Meta(description="A folder, connections, an archive.")]
    bytes: Annotated[Count, Meta(description="The images' size.")]
    seconds: Annotated[Seconds, Meta(description="Direct: from the first byte until all had arrived.")] = 0.0
    wire_bytes: Annotated[Count, Meta(description="Direct: what compression left of them.")] = 0
    streams: Annotated[Count, Meta(description="Direct: connections at once.")] = 0
    retries: Annotated[Count, Meta(description="Direct: how often one broke and was made again.")] = 0
    reserved_bytes: Annotated[Count, Meta(description="Direct: room taken for them before the freeze.")] = 0
    reserve_seconds: Annotated[Seconds, Meta(description="What that took, while the workload ran.")] = 0.0


class MigrationResult(msgspec.Struct, frozen=True, kw_only=True):
    """One migration, when it is over."""

    migration: Annotated[str, Meta(description="The migration's id.")]
    outcome: Annotated[
        Outcome,
        Meta(
            description="succeeded: runs at the destination; rolled-back: runs on at the source; failed: runs nowhere."
        ),
    ]
    phases: Annotated[list[PhaseTime], Meta(description="In the order they were gone through.")] = []
    freeze_seconds: Annotated[Seconds, Meta(description="How long no instruction of the workload ran.")] = 0.0
    hold_seconds: Annotated[Seconds, Meta(description="From the stop until the flows were repointed.")] = 0.0
    flows: FlowCounts = FlowCounts()
    bytes: ByteCounts = ByteCounts()
    ledger: Annotated[list[LedgerRow], Meta(description="One row for each flow.")] = []
    memory: Annotated[MemoryAccount | None, Meta(description="Of its memory; null when it never began.")] = None
    transfer: Annotated[TransferAccount | None, Meta(description="Of its images; null before they were sealed.")] = None
    not_carried: Annotated[
        list[str], Meta(description="Of its sockets and threads, and not set at the destination: what, and why not.")
    ] = []
    error: Annotated[Problem | None, Meta(description="Why it did not succeed; null when it did.")] = None


def given_up(result: MigrationResult) -> list[str]:
    """The connections that were allowed to be lost, in words."""
    return [row.given_up for row in result.ledger if row.given_up]


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of `MigrationResult`."""
    return msgspec.json.schema(MigrationResult)
