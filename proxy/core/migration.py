"""What a migration is doing at either proxy: two small tables."""

from __future__ import annotations

from enum import Enum, auto

from proxy.core.errors import Code, ProxyError


class Outbound(Enum):
    PREPARED = "prepared"
    HOLDING = "holding"
    REPOINTED = "repointed"


class Inbound(Enum):
    PREPARED = "prepared"
    BUILT = "built"
    RESUMED = "resumed"


class Call(Enum):
    FORESEE = auto()
    ADOPT = auto()
    REPOINT = auto()
    BUILD = auto()
    RESUME = auto()
    ORPHAN = auto()


OUTBOUND = {
    (Outbound.PREPARED, Call.FORESEE): Outbound.PREPARED,
    (Outbound.PREPARED, Call.ADOPT): Outbound.HOLDING,
    (Outbound.HOLDING, Call.ADOPT): Outbound.HOLDING,
    (Outbound.PREPARED, Call.REPOINT): Outbound.REPOINTED,  # a workload may have no connections
    (Outbound.HOLDING, Call.REPOINT): Outbound.REPOINTED,
    (Outbound.REPOINTED, Call.REPOINT): Outbound.REPOINTED,
}

INBOUND = {
    (Inbound.PREPARED, Call.BUILD): Inbound.BUILT,
    (Inbound.BUILT, Call.BUILD): Inbound.BUILT,
    (Inbound.PREPARED, Call.RESUME): Inbound.RESUMED,
    (Inbound.BUILT, Call.RESUME): Inbound.RESUMED,
    (Inbound.RESUMED, Call.RESUME): Inbound.RESUMED,
    (Inbound.RESUMED, Call.ORPHAN): Inbound.RESUMED,
}


def outbound(state: Outbound, call: Call) -> Outbound:
    """The next state. Raises WRONG_STATE, and nothing has changed."""
    after = OUTBOUND.get((state, call))
    if after is None:
        raise ProxyError(Code.WRONG_STATE, f"{call.name.lower()} makes no sense when the migration is {state.value}")
    return after


def inbound(state: Inbound, call: Call) -> Inbound:
    """The next state. Raises WRONG_STATE, and nothing has changed."""
    after = INBOUND.get((state, call))
    if after is None:
        raise ProxyError(Code.WRONG_STATE, f"{call.name.lower()} makes no sense when the migration is {state.value}")
    return after
