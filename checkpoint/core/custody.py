"""Who has the workload: the state table of one migration at one agent.

The source's side and the destination's are two machines in one table; they share no state. An illegal pair raises and
changes nothing. The lease is part of the machine: from the stop to the commit the workload stands still, and not longer
than it was promised. The core has no clock: `now` is the shell's monotonic time in seconds.

    source       PREPARED > STOPPED > DUMPED > ADOPTED > SEALED > COMMITTING (> GIVING) > COMMITTED
                 any of the first five > RELEASED (the workload runs where it was)
    destination  WAITING > RESTORING > RESTORED (> TAKING) > RESUMED
                 any of the first three > DISCARDED (no copy is left); TAKING > LOST (the copy was killed)

With post-copy the source is given up while it still stands there: GIVING, it can be read and never runs again, and is
killed when the last page has gone. The destination runs meanwhile: TAKING, and is LOST when its source is.
"""

from __future__ import annotations

from enum import StrEnum

from checkpoint.core.errors import AgentError, Code


class State(StrEnum):
    PREPARED = "prepared"
    STOPPED = "stopped"
    DUMPED = "dumped"
    ADOPTED = "adopted"
    SEALED = "sealed"
    COMMITTING = "committing"
    GIVING = "giving"
    COMMITTED = "committed"
    RELEASED = "released"
    WAITING = "waiting"
    RESTORING = "restoring"
    RESTORED = "restored"
    TAKING = "taking"
    RESUMED = "resumed"
    LOST = "lost"
    DISCARDED = "discarded"


class Event(StrEnum):
    STOP = "stop"
    DUMP = "dump"
    ADOPT = "adopt"
    SEAL = "seal"
    COMMIT = "commit"
    YIELD = "yield"
    KILLED = "killed"
    RELEASE = "release"
    RESTORE = "restore"
    VERIFY = "verify"
    RESUME = "resume"
    RUN = "run"
    FILLED = "filled"
    LOSE = "lose"
    DISCARD = "discard"


TABLE: dict[tuple[State, Event], State] = {
    (State.PREPARED, Event.STOP): State.STOPPED,
    (State.STOPPED, Event.DUMP): State.DUMPED,
    (State.DUMPED, Event.ADOPT): State.ADOPTED,
    (State.ADOPTED, Event.SEAL): State.SEALED,
    (State.SEALED, Event.COMMIT): State.COMMITTING,
    (State.COMMITTING, Event.KILLED): State.COMMITTED,
    (State.COMMITTING, Event.YIELD): State.GIVING,
    (State.GIVING, Event.KILLED): State.COMMITTED,
    (State.PREPARED, Event.RELEASE): State.RELEASED,
    (State.STOPPED, Event.RELEASE): State.RELEASED,
    (State.DUMPED, Event.RELEASE): State.RELEASED,
    (State.ADOPTED, Event.RELEASE): State.RELEASED,
    (State.SEALED, Event.RELEASE): State.RELEASED,
    (State.WAITING, Event.RESTORE): State.RESTORING,
    (State.RESTORING, Event.VERIFY): State.RESTORED,
    (State.RESTORED, Event.RESUME): State.RESUMED,
    (State.RESTORED, Event.RUN): State.TAKING,
    (State.TAKING, Event.FILLED): State.RESUMED,
    (State.TAKING, Event.LOSE): State.LOST,
    (State.WAITING, Event.DISCARD): State.DISCARDED,
    (State.RESTORING, Event.DISCARD): State.DISCARDED,
    (State.RESTORED, Event.DISCARD): State.DISCARDED,
}

HOLDING = frozenset({State.STOPPED, State.DUMPED, State.ADOPTED, State.SEALED})
"""The states in which the workload stands still and may still go back: the lease runs."""

GIVEN_UP = frozenset({State.COMMITTING, State.GIVING, State.COMMITTED})
"""The states of a source whose workload is the destination's."""

FINAL = frozenset({State.COMMITTED, State.RELEASED, State.RESUMED, State.DISCARDED, State.LOST})

_SOURCE_PATH = (
    State.PREPARED,
    State.STOPPED,
    State.DUMPED,
    State.ADOPTED,
    State.SEALED,
    State.COMMITTING,
    State.GIVING,
    State.COMMITTED,
)
_DESTINATION_PATH = (State.WAITING, State.RESTORING, State.RESTORED, State.TAKING, State.RESUMED)


class Machine:
    """One migration at one agent: its state, its lease, and why it was released."""

    def __init__(self, state: State, *, max_hold_seconds: float = 0.0) -> None:
        self.state = state
        self.reason = ""
        self.max_hold_seconds = max_hold_seconds
        self._deadline: float | None = None
        self._expired = False

    def check(self, event: Event, now: float) -> None:
        """Raise AgentError WRONG_STATE or LEASE_EXPIRED when `event` is not allowed now; change nothing."""
        if event is Event.COMMIT and (self._expired or self.overdue(now)):
            raise AgentError(Code.LEASE_EXPIRED, f"the hold was promised to last {self.max_hold_seconds:g} s at most")
        if (self.state, event) not in TABLE:
            raise AgentError(Code.WRONG_STATE, f"{event.value} is not possible: the migration is {self.state.value}")

    def apply(self, event: Event, now: float, *, reason: str = "", expired: bool = False) -> None:
        """Change the state by one event at `now`; raises like `check`."""
        self.check(event, now)
        self.state = TABLE[self.state, event]
        self.reason = reason or self.reason
        self._expired = self._expired or expired
        if event is Event.STOP:
            self._deadline = now + self.max_hold_seconds

    def done(self, event: Event) -> bool:
        """True where `event` lies behind on the way that was taken: saying it again is a repetition, not a mistake."""
        if event is Event.RELEASE:
            return self.state is State.RELEASED
        if event is Event.DISCARD:
            return self.state is State.DISCARDED
        targets = [TABLE[pair] for pair in TABLE if pair[1] is event]
        path = _SOURCE_PATH if targets[0] in _SOURCE_PATH else _DESTINATION_PATH
        return self.state in path and path.index(self.state) >= path.index(targets[0])

    def deadline(self) -> float | None:
        """When the lease runs out, on the shell's clock; None while none runs."""
        return self._deadline if self.state in HOLDING else None

    def overdue(self, now: float) -> bool:
        deadline = self.deadline()
        return deadline is not None and now >= deadline
