"""Puts the result of a migration together: what `-o json` prints and the journal keeps."""

from __future__ import annotations

from typing import cast, get_args

from checkpoint.api import Cut, Memory, Reserved
from controller.actions import Move
from controller.core.accounts import Account, Standing
from controller.core.errors import MidstreamError
from controller.core.phases import Action, Phase
from controller.core.result import (
    ByteCounts,
    CriuLog,
    Fault,
    FlowCounts,
    LedgerRow,
    MemoryAccount,
    MigrationResult,
    Outcome,
    PhaseTime,
    Problem,
    RoundAccount,
    TransferAccount,
)

OUTCOMES: dict[Phase, Outcome] = {
    Phase.SUCCEEDED: "succeeded",
    Phase.ROLLED_BACK: "rolled-back",
    Phase.FAILED: "failed",
}


HOLD_ENDS_WITH = (Action.RESUME_LEGS, Action.RESUME, Action.REPOINT)
"""The flows are repointed when the last of them is answered."""


def make_result(move: Move, phase: Phase, times: list[PhaseTime], problem: MidstreamError | None) -> MigrationResult:
    """The account of a migration that has come to the final phase `phase`."""
    return MigrationResult(
        migration=move.intent.migration,
        outcome=OUTCOMES[phase],
        phases=times,
        freeze_seconds=_between(move, Action.STOP, Action.RESUME, Action.RELEASE),
        hold_seconds=_between(move, Action.STOP, _last_answered(move, HOLD_ENDS_WITH), Action.RELEASE),
        flows=_flow_counts(move, phase),
        bytes=_byte_counts(move),
        ledger=[*map(_row, move.accounts), *map(_cut_row, _cut(move, phase))],
        memory=_memory(move, times),
        transfer=_transfer(move),
        not_carried=move.restored.not_carried if move.restored else [],
        error=None if problem is None else _told(problem),
    )


def _memory(move: Move, times: list[PhaseTime]) -> MemoryAccount | None:
    plan = move.plan
    if plan is None or plan.memory is None:
        return None
    total = sum(one.seconds for one in times if one.name not in (Phase.PENDING, Phase.PREFLIGHT))
    came = move.memory or Memory("complete")
    chosen = plan.memory
    return MemoryAccount(
        chosen.way, plan.memory_bytes, chosen.freeze_seconds, chosen.total_seconds, total,
        came.arrived_bytes, came.seconds, came.early_bytes,
        came.arrived_bytes - came.kept_bytes if came.early else 0, came.faults,
        [RoundAccount(one.written_bytes, one.seconds) for one in move.rounds], chosen.fell_back,
    )  # fmt: skip


def _transfer(move: Move) -> TransferAccount | None:
    seen = move.sealed.transfer if move.sealed else None
    if seen is None:
        return None
    room = move.reserved or Reserved("there", 0, 0.0)
    return TransferAccount(
        seen.way, seen.image_bytes, seen.seconds, seen.wire_bytes, seen.streams, seen.retries,
        room.size_bytes, room.seconds,
    )  # fmt: skip


def _told(error: MidstreamError) -> Problem:
    """The error as the result has it; a fault that the result has no word for is our own."""
    known = cast(Fault, error.fault) if error.fault in get_args(Fault) else "midstream"
    log = None if error.criu_log is None else CriuLog(error.criu_log.path, error.criu_log.lines)
    return Problem(error.code, error.message, known, error.hint, log)


def _between(move: Move, start: Action, *ends: Action) -> float:
    """From when `start` was said until the first of `ends` was answered: an upper bound of what happened between."""
    answered = [move.answered_at[end] for end in ends if end in move.answered_at]
    if start not in move.said_at or not answered:
        return 0.0
    return max(0.0, min(answered) - move.said_at[start])


def _last_answered(move: Move, actions: tuple[Action, ...]) -> Action:
    return max(actions, key=lambda action: move.answered_at.get(action, float("inf")))


def _flow_counts(move: Move, phase: Phase) -> FlowCounts:
    adopted = move.adopted.flows if move.adopted else 0
    gone = [account for account in move.accounts if account.lost or account.standing is Standing.GIVEN_UP]
    everything = phase is Phase.FAILED or move.flows_lost is not None
    lost = (adopted if everything else len(gone)) + len(_cut(move, phase))
    return FlowCounts(adopted, move.repointed.accepted if move.repointed else 0, lost, move.made_ahead)


def _cut(move: Move, phase: Phase) -> list[Cut]:
    """Those that nobody had adopted, where they have ended."""
    return move.adopted.cut if move.adopted and phase is not Phase.ROLLED_BACK else []


def _byte_counts(move: Move) -> ByteCounts:
    held = sum(account.source.held_bytes for account in move.accounts)
    return ByteCounts(held, sum(account.lost_bytes for account in move.accounts))


def _cut_row(one: Cut) -> LedgerRow:
    return LedgerRow(one.peer, one.direction, 0, 0, 0, 0, offsets_equal=False, given_up=one.why)


def _row(account: Account) -> LedgerRow:
    line, there = account.source, account.destination
    return LedgerRow(
        peer=str(line.peer),
        direction=line.direction,
        unread_bytes=line.unread_bytes,
        held_bytes=line.held_bytes,
        delivered_to_app_bytes=there.to_app_bytes if there else 0,
        delivered_to_peer_bytes=line.to_peer_bytes,
        offsets_equal=not (account.lost or line.given_up),
        dropped_datagrams=line.dropped_datagrams + (there.dropped_datagrams if there else 0),
        given_up=line.given_up,
    )
