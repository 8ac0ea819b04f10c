"""One flow's life, as one table.

A flow has two sockets here: its **leg** (at the source the peer leg, at the destination the app leg) and its **link**
to the other proxy. The shell reports events, this table answers with commands, the shell executes them without awaiting
anything. Payload never passes through here: while a flow is relayed the shell moves bytes by itself and reports only
the end of a stream (after its last byte has been handed over) or a failure.

    source       HELD --repoint--> LINKING --link--> RELAYING
    destination  BUILT --resume--> RESUMED --link--> RELAYING     adopted flows; the link may also come first
                 CONNECTING --connected--> RELAYING               connections opened during or after the hold
    both         RELAYING --end of one stream--> LEG_ENDED | LINK_ENDED --of the other--> DRAINING --> CLOSED
    anything --failure or forced release--> RESET                  before the repoint --release--> RELEASED
    HELD, BUILT, WAITING --give up--> RESET                                 what cannot be kept, where that is allowed
"""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    HELD = "held"
    """Source: adopted, unread, untouched but for the size of its receive buffer."""
    LINKING = "linking"
    """Source: repointed, waits for a link; not read yet."""
    BUILT = "built"
    """Destination: the app leg is there, in repair mode."""
    WAITING = "waiting"
    """Destination: built, and its link is there already."""
    RESUMED = "resumed"
    """Destination: out of repair mode, waits for its link."""
    CONNECTING = "connecting"
    """Destination: a fresh app leg's handshake with the workload is under way."""
    RELAYING = "relaying"
    LEG_ENDED = "leg_ended"
    """The leg's stream has ended, and that was passed on; the other direction goes on."""
    LINK_ENDED = "link_ended"
    DRAINING = "draining"
    """Both streams have ended; the leg still has bytes that its other end has not acknowledged."""
    CLOSED = "closed"
    RESET = "reset"
    RELEASED = "released"


class Event(Enum):
    REPOINT = auto()
    RESUME = auto()
    LINK_READY = auto()
    """Source: bytes may be sent on it. Destination: one came that named this flow."""
    LINK_REFUSED = auto()
    """Source: the link could not be had, or the destination turned this flow away."""
    LEG_CONNECTED = auto()
    LEG_EOF = auto()
    LINK_EOF = auto()
    LEG_FAILED = auto()
    LINK_FAILED = auto()
    LEG_DRAINED = auto()
    RELEASE = auto()
    GIVE_UP = auto()
    """Instead of REPOINT or RESUME: the connection cannot be kept, and may be lost."""


class Command(Enum):
    UNHOLD = auto()
    """Give the receive buffer its size back."""
    SKIP_UNREAD = auto()
    """Discard the bytes that travel in the image."""
    SEEK_LINK = auto()
    LEAVE_REPAIR = auto()
    RELAY = auto()
    """Start moving bytes both ways."""
    FIN_LEG = auto()
    FIN_LINK = auto()
    RESET_LEG = auto()
    RESET_LINK = auto()
    CLOSE_LEG = auto()
    """Close quietly: a duplicate, a leg in repair mode, or one that has said all it had to."""
    CLOSE_LINK = auto()
    ABANDON_LINK = auto()
    """Let go of it: nothing was relayed yet, so there is nothing to say."""
    DRAIN_LEG = auto()
    """Report LEG_DRAINED when nothing is left to be acknowledged."""
    RETIRE_ROUTE = auto()
    """Soon stop routing the application's packets of this flow to the proxy (destination)."""


class IllegalEvent(Exception):
    """The event has no meaning in that state; nothing was changed."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event.name} in state {state.name}")
        self.state = state
        self.event = event


ENDED = frozenset({State.CLOSED, State.RESET, State.RELEASED})
ALIVE = (State.RELAYING, State.LEG_ENDED, State.LINK_ENDED)
"""Bytes are being moved, one way at least."""

_S, _E, _C = State, Event, Command
_RESET_BOTH = (_C.RESET_LEG, _C.RESET_LINK, _C.RETIRE_ROUTE)
_LEG_GONE = (_C.RESET_LINK, _C.CLOSE_LEG, _C.RETIRE_ROUTE)
_LINK_GONE = (_C.RESET_LEG, _C.CLOSE_LINK, _C.RETIRE_ROUTE)

TABLE: dict[tuple[State, Event], tuple[State, tuple[Command, ...]]] = {
    (_S.HELD, _E.REPOINT): (_S.LINKING, (_C.UNHOLD, _C.SKIP_UNREAD, _C.SEEK_LINK)),
    (_S.HELD, _E.RELEASE): (_S.RELEASED, (_C.UNHOLD, _C.CLOSE_LEG, _C.ABANDON_LINK)),
    (_S.HELD, _E.GIVE_UP): (_S.RESET, (_C.UNHOLD, _C.RESET_LEG, _C.ABANDON_LINK)),
    (_S.BUILT, _E.GIVE_UP): (_S.RESET, (_C.LEAVE_REPAIR, _C.RESET_LEG, _C.RETIRE_ROUTE)),
    (_S.WAITING, _E.GIVE_UP): (_S.RESET, (_C.LEAVE_REPAIR, _C.RESET_LEG, _C.ABANDON_LINK, _C.RETIRE_ROUTE)),
    (_S.LINKING, _E.LINK_READY): (_S.RELAYING, (_C.RELAY,)),
    (_S.LINKING, _E.LINK_REFUSED): (_S.RESET, _LINK_GONE),
    (_S.LINKING, _E.LEG_FAILED): (_S.RESET, _LEG_GONE),
    (_S.LINKING, _E.RELEASE): (_S.RESET, _RESET_BOTH),
    (_S.BUILT, _E.RESUME): (_S.RESUMED, (_C.LEAVE_REPAIR,)),
    (_S.BUILT, _E.LINK_READY): (_S.WAITING, ()),
    (_S.BUILT, _E.RELEASE): (_S.RELEASED, (_C.CLOSE_LEG, _C.RETIRE_ROUTE)),
    (_S.WAITING, _E.LINK_FAILED): (_S.BUILT, ()),
    (_S.WAITING, _E.RESUME): (_S.RELAYING, (_C.LEAVE_REPAIR, _C.RELAY)),
    (_S.WAITING, _E.RELEASE): (_S.RELEASED, (_C.CLOSE_LEG, _C.ABANDON_LINK, _C.RETIRE_ROUTE)),
    (_S.RESUMED, _E.LINK_READY): (_S.RELAYING, (_C.RELAY,)),
    (_S.RESUMED, _E.RELEASE): (_S.RESET, _RESET_BOTH),
    (_S.CONNECTING, _E.LEG_CONNECTED): (_S.RELAYING, (_C.RELAY,)),
    (_S.CONNECTING, _E.LEG_FAILED): (_S.RESET, _LEG_GONE),
    (_S.CONNECTING, _E.RELEASE): (_S.RESET, _RESET_BOTH),
    (_S.RELAYING, _E.LEG_EOF): (_S.LEG_ENDED, (_C.FIN_LINK,)),
    (_S.RELAYING, _E.LINK_EOF): (_S.LINK_ENDED, (_C.FIN_LEG,)),
    (_S.LEG_ENDED, _E.LINK_EOF): (_S.DRAINING, (_C.FIN_LEG, _C.CLOSE_LINK, _C.DRAIN_LEG)),
    (_S.LINK_ENDED, _E.LEG_EOF): (_S.DRAINING, (_C.FIN_LINK, _C.CLOSE_LINK, _C.DRAIN_LEG)),
    **{(state, _E.LEG_FAILED): (_S.RESET, _LEG_GONE) for state in ALIVE},
    **{(state, _E.LINK_FAILED): (_S.RESET, _LINK_GONE) for state in ALIVE},
    **{(state, _E.LINK_REFUSED): (_S.RESET, _LINK_GONE) for state in ALIVE},
    **{(state, _E.RELEASE): (_S.RESET, _RESET_BOTH) for state in ALIVE},
    (_S.DRAINING, _E.LEG_DRAINED): (_S.CLOSED, (_C.CLOSE_LEG, _C.RETIRE_ROUTE)),
    (_S.DRAINING, _E.RELEASE): (_S.RESET, (_C.RESET_LEG, _C.RETIRE_ROUTE)),
    **{(state, _E.RELEASE): (state, ()) for state in ENDED},
}


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """The next state and what to do, in order. Raises IllegalEvent."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalEvent(state, event) from None
