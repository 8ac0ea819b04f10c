"""One link's life, as one table: it outlives its connections, and for a moment its flow.

WAITING --connected--> CARRYING --broke--> BROKEN --connected--> CARRYING --finished--> CLOSING --closed, freed--> OVER
CARRYING --freed--> OVER (the acceptor's, which says so)
CARRYING, WAITING --lent--> ASLEEP --stirred--> WAKING --connected--> CARRYING
any of them --lost--> OVER
"""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    WAITING = "waiting"
    """It has had no connection yet."""
    CARRYING = "carrying"
    BROKEN = "broken"
    """The connection is gone; the initiator dials another, the acceptor waits for it."""
    ASLEEP = "asleep"
    """Its connection was lent to another link, or it never had one: it has nothing to carry. It is not broken."""
    WAKING = "waking"
    """It has something to carry: the initiator waits for its turn to have a connection, the acceptor has rung."""
    CLOSING = "closing"
    """Both streams have ended and that is acknowledged: until the other end closes, it may have missed it."""
    OVER = "over"


class Event(Enum):
    CONNECTED = auto()
    """A connection on which both ends know where to go on. At the acceptor, perhaps before it missed the last one."""
    BROKE = auto()
    FINISHED = auto()
    CLOSED = auto()
    FREED = auto()
    """Both ends know that the other one knows: the connection may carry another link."""
    LENT = auto()
    """Both ends know that nothing more of it comes over this connection: that may carry another link, meanwhile."""
    STIRRED = auto()
    """There is something to carry, at this end."""
    LOST = auto()
    """It will have no further connection."""


_S, _E = State, Event

TABLE: dict[tuple[State, Event], State] = {
    (_S.WAITING, _E.CONNECTED): _S.CARRYING,
    (_S.WAITING, _E.LENT): _S.ASLEEP,
    (_S.WAITING, _E.LOST): _S.OVER,
    (_S.CARRYING, _E.CONNECTED): _S.CARRYING,
    (_S.CARRYING, _E.BROKE): _S.BROKEN,
    (_S.CARRYING, _E.FINISHED): _S.CLOSING,
    (_S.CARRYING, _E.FREED): _S.OVER,
    (_S.CARRYING, _E.LENT): _S.ASLEEP,
    (_S.CARRYING, _E.LOST): _S.OVER,
    (_S.ASLEEP, _E.STIRRED): _S.WAKING,
    (_S.ASLEEP, _E.CONNECTED): _S.CARRYING,
    (_S.ASLEEP, _E.LOST): _S.OVER,
    (_S.WAKING, _E.CONNECTED): _S.CARRYING,
    (_S.WAKING, _E.LOST): _S.OVER,
    (_S.BROKEN, _E.CONNECTED): _S.CARRYING,
    (_S.BROKEN, _E.LOST): _S.OVER,
    (_S.CLOSING, _E.CONNECTED): _S.CARRYING,
    (_S.CLOSING, _E.BROKE): _S.BROKEN,
    (_S.CLOSING, _E.CLOSED): _S.OVER,
    (_S.CLOSING, _E.FREED): _S.OVER,
    (_S.CLOSING, _E.LOST): _S.OVER,
}


class IllegalEvent(Exception):
    """The event has no meaning in that state; nothing was changed."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event.name} in state {state.name}")


def step(state: State, event: Event) -> State:
    """The next state. Raises IllegalEvent."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalEvent(state, event) from None
