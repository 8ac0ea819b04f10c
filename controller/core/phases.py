"""The two-phase move, as one table.

A migration is in one phase. Each phase has work to do (`WORK`: groups of actions; the actions of a group go out
together, the groups one after the other); how the work ended is an event; `step` looks up the next phase. Two rules
make the move safe, and both can be read off the table:

- Before COMMITTING, whatever goes wrong leads to ROLLING_BACK; after it, nothing leads there.
- COMMITTING asks one arbiter, the source's agent, which kills the workload or refuses for ever. While its answer is
  not known (IN_DOUBT) it is asked again, and nothing else is done: neither copy is resumed.

The table is pure: the command line drives it today (`controller.migrate`), an operator can drive the same one.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from itertools import pairwise


class Phase(StrEnum):
    PENDING = "Pending"
    PREFLIGHT = "Preflight"
    PREPARING = "Preparing"
    PRE_COPYING = "PreCopying"
    STOPPING = "Stopping"
    CHECKPOINTING = "Checkpointing"
    ADOPTING = "Adopting"
    TRANSFERRING = "Transferring"
    RESTORING = "Restoring"
    COMMITTING = "Committing"
    REPOINTING = "Repointing"
    DRAINING = "Draining"
    SUCCEEDED = "Succeeded"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    FAILED = "Failed"


class Event(Enum):
    """How the work of a phase ended."""

    DONE = "done"
    ROUNDS = "rounds"
    """Everything is prepared, and memory is to be copied before the stop."""
    FALL_BACK = "fall-back"
    """It was copied in vain: another way is to be prepared."""
    ERROR = "error"
    """A party said no, or could not be reached where that decides nothing."""
    IN_DOUBT = "in-doubt"
    """The arbiter was asked and its answer got lost."""
    LOST = "lost"
    """The party that owns the workload is gone: its pod has ended."""
    INTERRUPTED = "interrupted"
    """A new controller found the migration in this phase."""
    CANCELLED = "cancelled"
    """A person asked for the rollback."""


class Action(Enum):
    """One call to one party; `controller.migrate` knows which."""

    CHECK_PLAN = "check the plan"
    AWAIT_WAYS = "every proxy: what earlier moves left on its way to slow readers is not too much"
    PREPARE_SOURCE = "source: get CRIU and the image folder ready"
    PREPARE_DESTINATION = "destination: get CRIU ready"
    OPEN_INBOUND = "destination's proxy: routing in place, links welcome"
    CARRY_FILES = "both agents: the workload's files packed, and unpacked beside where they belong"
    DIAL_LINKS = "source's proxy: dial the links"
    OPEN_TRANSFER = "both agents: agree on how the images travel, and connect"
    RESERVE = "destination: room for the images taken before they come"
    SEND_EARLY = "destination: what of the memory the source's giver sends while the workload runs is there"
    FORESEE = "source: name the connections that can stand at the destination before the freeze"
    PAIR = "destination's agent and proxy: make both ends of each"
    SPARE = "source: start CRIU anew, which will not see them"
    SURVEY = "source: look through the memory that goes in no image"
    PRE_COPY = "source: round after round, copy the memory that was written since the last"
    START_OVER = "both agents: where that was in vain, forget it, to be prepared for another way"
    READY = "source: CRIU begins, as far as it can before the stop"
    STOP = "source: stop the workload"
    DUMP = "source: dump it, stopped"
    ADOPT = "source: hand its sockets to the proxy"
    SEAL = "source: edit the images and sign for every file"
    BUILD_LEGS = "destination's proxy: build the app legs, in repair mode"
    RESTORE = "destination: restore it, stopped, every file verified"
    JOIN_PAIRS = "destination's proxy: of each pair which link is its, and what is unread"
    COMPARE = "source: what the workload has changed of its connections since they were named"
    ADJUST = "destination's agent: the same of the copy's"
    CHECK_LEGS = "destination's proxy: the app legs are there still"
    COMMIT = "source: kill the workload"
    RESUME_LEGS = "destination's proxy: app legs out of repair mode"
    RESUME = "destination: resume the workload"
    REPOINT = "source's proxy: join peer legs to links"
    SETTLE = "both proxies: the ledgers balance"
    SHORTEN = "every proxy: what had followed the workload to the source is relayed straight to the destination"
    AWAIT_MEMORY = "destination: the last page of its memory has come"
    FORGET = "both agents: images deleted, migration forgotten"
    RELEASE = "source: sockets back, workload continues"
    DISCARD = "destination: the stopped copy is killed"
    CLOSE_INBOUND = "destination's proxy: app legs closed in silence"


WORK: dict[Phase, tuple[tuple[Action, ...], ...]] = {
    Phase.PENDING: (),
    Phase.PREFLIGHT: ((Action.CHECK_PLAN,), (Action.AWAIT_WAYS,)),
    Phase.PREPARING: (
        (Action.PREPARE_SOURCE, Action.PREPARE_DESTINATION, Action.OPEN_INBOUND),
        (Action.DIAL_LINKS, Action.OPEN_TRANSFER),
        (Action.CARRY_FILES,),
        (Action.RESERVE,),
        (Action.SEND_EARLY,),
        (Action.FORESEE,),
        (Action.PAIR, Action.SURVEY),
        (Action.SPARE,),
    ),
    Phase.PRE_COPYING: ((Action.PRE_COPY,), (Action.START_OVER,)),
    Phase.STOPPING: ((Action.READY,), (Action.STOP,)),
    Phase.CHECKPOINTING: ((Action.DUMP,),),
    # The legs as soon as they are known: most, as a rule, were adopted while CRIU dumped.
    Phase.ADOPTING: ((Action.ADOPT, Action.BUILD_LEGS),),
    Phase.TRANSFERRING: ((Action.SEAL, Action.BUILD_LEGS),),
    # Pairs stand by then, and wait for nobody; what CRIU restores needs its leg.
    Phase.RESTORING: ((Action.RESTORE, Action.COMPARE, Action.JOIN_PAIRS), (Action.ADJUST, Action.CHECK_LEGS)),
    Phase.COMMITTING: ((Action.COMMIT,),),
    # The workload first, alone: the proxies' work would take the processor from it, and it has enough to read.
    Phase.REPOINTING: ((Action.RESUME,), (Action.RESUME_LEGS, Action.REPOINT)),
    Phase.DRAINING: ((Action.SETTLE,), (Action.SHORTEN,), (Action.AWAIT_MEMORY,), (Action.FORGET,)),
    Phase.ROLLING_BACK: ((Action.RELEASE, Action.DISCARD, Action.CLOSE_INBOUND),),
    Phase.SUCCEEDED: (),
    Phase.ROLLED_BACK: (),
    Phase.FAILED: (),
}

_FORWARD = (
    Phase.PENDING,
    Phase.PREFLIGHT,
    Phase.PREPARING,
    Phase.PRE_COPYING,
    Phase.STOPPING,
    Phase.CHECKPOINTING,
    Phase.ADOPTING,
    Phase.TRANSFERRING,
    Phase.RESTORING,
    Phase.COMMITTING,
    Phase.REPOINTING,
    Phase.DRAINING,
    Phase.SUCCEEDED,
)
BEFORE_COMMIT = frozenset(_FORWARD[: _FORWARD.index(Phase.COMMITTING)])
FROZEN = frozenset(_FORWARD[_FORWARD.index(Phase.STOPPING) : _FORWARD.index(Phase.DRAINING)])
"""The phases in which the workload does not run, or may not."""
FINAL = frozenset({Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED})

TABLE: dict[tuple[Phase, Event], Phase] = {
    **{(phase, Event.DONE): following for phase, following in pairwise(_FORWARD)},
    # Most moves have no rounds; one that had them in vain is prepared anew, and has none.
    (Phase.PREPARING, Event.DONE): Phase.STOPPING,
    (Phase.PREPARING, Event.ROUNDS): Phase.PRE_COPYING,
    (Phase.PRE_COPYING, Event.FALL_BACK): Phase.PREPARING,
    **{
        (phase, event): Phase.ROLLING_BACK
        for phase in BEFORE_COMMIT
        for event in (Event.ERROR, Event.IN_DOUBT, Event.LOST, Event.INTERRUPTED, Event.CANCELLED)
    },
    # The arbiter refused: it will refuse for ever, so the source is still the owner.
    (Phase.COMMITTING, Event.ERROR): Phase.ROLLING_BACK,
    (Phase.COMMITTING, Event.IN_DOUBT): Phase.COMMITTING,
    (Phase.COMMITTING, Event.INTERRUPTED): Phase.COMMITTING,
    # It is dead, and had not given the workload up: that has ended with it, and no copy is to outlive it.
    (Phase.COMMITTING, Event.LOST): Phase.ROLLING_BACK,
    # The destination owns the workload: what failed is tried again until it works or the pod is gone.
    **{(phase, event): phase for phase in (Phase.REPOINTING, Phase.DRAINING)
       for event in (Event.ERROR, Event.IN_DOUBT, Event.INTERRUPTED)},
    (Phase.REPOINTING, Event.LOST): Phase.FAILED,
    (Phase.DRAINING, Event.LOST): Phase.FAILED,
    (Phase.ROLLING_BACK, Event.DONE): Phase.ROLLED_BACK,
    **{(Phase.ROLLING_BACK, event): Phase.ROLLING_BACK
       for event in (Event.ERROR, Event.IN_DOUBT, Event.INTERRUPTED)},
    (Phase.ROLLING_BACK, Event.LOST): Phase.FAILED,
}  # fmt: skip


class IllegalStep(Exception):
    """The table has no such row: a mistake of the caller's; nothing was changed."""


def step(phase: Phase, event: Event) -> Phase:
    """The phase that follows.

    Raises:
        IllegalStep: `event` cannot happen in `phase`, as in a final one.
    """
    try:
        return TABLE[phase, event]
    except KeyError:
        raise IllegalStep(f"{event.value} cannot happen in {phase.value}") from None
